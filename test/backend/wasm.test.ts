import { openWasmBackend } from "../../src/backend/wasm/wasm-backend.ts";
import { backendCases } from "./cases.ts";

backendCases("wasm", openWasmBackend);
