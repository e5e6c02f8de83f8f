/** Numbers that `native/wasm/include/linear.h` gives to formats and dtypes. */
import type { WeightSpec } from "../../model/program.ts";
import type { WeightFormat } from "../backend.ts";

export const FORMAT: Readonly<Record<WeightFormat, number>> = { float32: 0, bfloat16: 1, int8: 2 };
export const DTYPE = { F32: 0, F16: 1, BF16: 2 } as const;

/** Rows per panel. */
export const PANEL_ROWS = 16;

/** @param format of matrices that may be rounded */
export const formatOf = ({ kind }: WeightSpec, format: number): number => (kind === "exact" ? FORMAT.float32 : format);
