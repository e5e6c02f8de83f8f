/** Code for the items 0 to n - 1 that a kernel keeps in registers. */
#pragma once

#define REPEAT_1(F) F(0)
#define REPEAT_2(F) F(0) F(1)
#define REPEAT_3(F) F(0) F(1) F(2)
#define REPEAT_4(F) F(0) F(1) F(2) F(3)
