/**
 * Copies the patched template engine into the tree.
 *
 * Patches of a package reach whoever works in its repository, not those who depend on it; a program that uses
 * Lorikeet as a library would get the unpatched engine, and other prompts. A test compares the copy.
 */
const SOURCE = new URL("../node_modules/@huggingface/jinja/dist/index.js", import.meta.url);
const TARGET = new URL("../src/model/vendor/jinja.js", import.meta.url);

const NOTICE = `/*
 * @huggingface/jinja 0.5.11 with patches/@huggingface%2Fjinja@0.5.11.patch; written by scripts/vendor-jinja.ts.
 * Copyright Hugging Face, MIT licence: https://github.com/huggingface/huggingface.js/blob/main/packages/jinja/LICENSE
 */
`;

export const vendored = async (): Promise<string> => NOTICE + (await Bun.file(SOURCE).text());

if (import.meta.main) await Bun.write(TARGET, await vendored());
