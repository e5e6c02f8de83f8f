/** Code for the items 0 to n - 1 that a kernel keeps in registers: F(item, what follows F). */
#pragma once

#define REPEAT_1(F, ...) F(0, ##__VA_ARGS__)
#define REPEAT_2(F, ...) F(0, ##__VA_ARGS__) F(1, ##__VA_ARGS__)
#define REPEAT_3(F, ...) F(0, ##__VA_ARGS__) F(1, ##__VA_ARGS__) F(2, ##__VA_ARGS__)
#define REPEAT_4(F, ...) F(0, ##__VA_ARGS__) F(1, ##__VA_ARGS__) F(2, ##__VA_ARGS__) F(3, ##__VA_ARGS__)
