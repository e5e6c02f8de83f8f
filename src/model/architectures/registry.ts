/** Every architecture that can be served. */
import type { Architecture } from "../architecture.ts";
import { llama } from "./llama.ts";
import { mistral } from "./mistral.ts";
import { mixtral } from "./mixtral.ts";
import { phi3 } from "./phi3.ts";
import { qwen2 } from "./qwen2.ts";
import { qwen3Moe } from "./qwen3-moe.ts";
import { qwen3 } from "./qwen3.ts";

export const ARCHITECTURES: readonly Architecture[] = [
  llama,
  mistral,
  mixtral,
  qwen2,
  qwen3,
  qwen3Moe,
  phi3,
];
