/**
 * Hopper's product of a warpgroup: 64 rows of a matrix in shared memory times up to 256 rows of another, for the widths in use.
 *
 * Both operands lie as rows of 64 bfloat16 numbers (128 bytes), their eight 16-byte chunks exchanged by the row's low
 * three bits, in blocks of eight rows that begin on 1024 bytes. Source: PTX ISA, "Asynchronous warpgroup level matrix
 * operations", 128-byte swizzle.
 */
#pragma once
#include "device.cuh"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LORIKEET_HAS_WGMMA 1
#endif

namespace lorikeet {

#ifdef LORIKEET_HAS_WGMMA

/** Describes an operand whose rows begin at `shared`, with `stride` bytes from one block of eight rows to the next. */
__device__ __forceinline__ uint64_t operand_descriptor(const void* shared, int stride = 1024) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  constexpr uint64_t LEADING = 1, SWIZZLE_128 = 1;
  return static_cast<uint64_t>((address & 0x3ffff) >> 4) | LEADING << 16 | static_cast<uint64_t>(stride >> 4) << 32 | SWIZZLE_128 << 62;
}
/** Sixteen columns further, in the descriptor's unit of 16 bytes. */
constexpr uint64_t DESCRIPTOR_16_COLUMNS = 2;

__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/** Until at most PENDING groups are under way. */
template <int PENDING> __device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

/**
 * c[64, 8 N_TILES] += a[64, 16] · b[8 N_TILES, 16]ᵀ, with c as `multiply_add` holds it: warp w of the warpgroup has rows
 * 16 w to 16 w + 15.
 */
template <int N_TILES> __device__ __forceinline__ void wgmma_16(float (&c)[N_TILES][4], uint64_t a, uint64_t b);

#define LORIKEET_SUMS_1(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define LORIKEET_SUMS_2(i) LORIKEET_SUMS_1(i), LORIKEET_SUMS_1(i + 1)
#define LORIKEET_SUMS_4(i) LORIKEET_SUMS_2(i), LORIKEET_SUMS_2(i + 2)
#define LORIKEET_SUMS_8(i) LORIKEET_SUMS_4(i), LORIKEET_SUMS_4(i + 4)
#define LORIKEET_SUMS_16(i) LORIKEET_SUMS_8(i), LORIKEET_SUMS_8(i + 8)
#define LORIKEET_SUMS_32(i) LORIKEET_SUMS_16(i), LORIKEET_SUMS_16(i + 16)
/* WIDTH = 8 * N_TILES; LIST names the sums, A_B the operands behind them. */
#define LORIKEET_WGMMA(N_TILES, WIDTH, LIST, A_B, ...)                                                                                              \
  template <> __device__ __forceinline__ void wgmma_16<N_TILES>(float (&c)[N_TILES][4], uint64_t a, uint64_t b) {                                   \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" WIDTH "k16.f32.bf16.bf16 {" LIST "}, " A_B ", 1, 1, 1, 0, 0;" : __VA_ARGS__ : "l"(a), "l"(b)); \
  }

LORIKEET_WGMMA(2, "16",
               "%0,%1,%2,%3,%4,%5,%6,%7",
               "%8, %9", LORIKEET_SUMS_2(0))
LORIKEET_WGMMA(3, "24",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11",
               "%12, %13", LORIKEET_SUMS_2(0), LORIKEET_SUMS_1(2))
LORIKEET_WGMMA(4, "32",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15",
               "%16, %17", LORIKEET_SUMS_4(0))
LORIKEET_WGMMA(5, "40",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19",
               "%20, %21", LORIKEET_SUMS_4(0), LORIKEET_SUMS_1(4))
LORIKEET_WGMMA(6, "48",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23",
               "%24, %25", LORIKEET_SUMS_4(0), LORIKEET_SUMS_2(4))
LORIKEET_WGMMA(7, "56",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27",
               "%28, %29", LORIKEET_SUMS_4(0), LORIKEET_SUMS_2(4), LORIKEET_SUMS_1(6))
LORIKEET_WGMMA(8, "64",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31",
               "%32, %33", LORIKEET_SUMS_8(0))
LORIKEET_WGMMA(10, "80",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39",
               "%40, %41", LORIKEET_SUMS_8(0), LORIKEET_SUMS_2(8))
LORIKEET_WGMMA(12, "96",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47",
               "%48, %49", LORIKEET_SUMS_8(0), LORIKEET_SUMS_4(8))
LORIKEET_WGMMA(16, "128",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63",
               "%64, %65", LORIKEET_SUMS_16(0))
LORIKEET_WGMMA(20, "160",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79",
               "%80, %81", LORIKEET_SUMS_16(0), LORIKEET_SUMS_4(16))
LORIKEET_WGMMA(24, "192",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95",
               "%96, %97", LORIKEET_SUMS_16(0), LORIKEET_SUMS_8(16))
LORIKEET_WGMMA(28, "224",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
               "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111",
               "%112, %113", LORIKEET_SUMS_16(0), LORIKEET_SUMS_8(16), LORIKEET_SUMS_4(24))
LORIKEET_WGMMA(29, "232",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
               "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115",
               "%116, %117", LORIKEET_SUMS_16(0), LORIKEET_SUMS_8(16), LORIKEET_SUMS_4(24), LORIKEET_SUMS_1(28))
LORIKEET_WGMMA(30, "240",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
               "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119",
               "%120, %121", LORIKEET_SUMS_16(0), LORIKEET_SUMS_8(16), LORIKEET_SUMS_4(24), LORIKEET_SUMS_2(28))
LORIKEET_WGMMA(32, "256",
               "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
               "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"
               "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"
               "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127",
               "%128, %129", LORIKEET_SUMS_32(0))

#undef LORIKEET_WGMMA
#undef LORIKEET_SUMS_32
#undef LORIKEET_SUMS_16
#undef LORIKEET_SUMS_8
#undef LORIKEET_SUMS_4
#undef LORIKEET_SUMS_2
#undef LORIKEET_SUMS_1

#endif

}  // namespace lorikeet
