/** @jsxImportSource preact */
import type { JSX } from "preact";

interface ModelPickerProps {
  readonly base: string;
  readonly adapters: readonly string[];
  readonly chosen: readonly string[];
  readonly onChange: (chosen: readonly string[]) => void;
}

/** More would not be read side by side. */
const MAX_CHOSEN = 8;
const MAX_SHOWN = 40;

export function ModelPicker({ base, adapters, chosen, onChange }: ModelPickerProps): JSX.Element {
  const models = [base, ...adapters.slice(0, MAX_SHOWN).toSorted()];
  const toggle = (model: string): void =>
    onChange(chosen.includes(model) ? chosen.filter((each) => each !== model) : models.filter((each) => each === model || chosen.includes(each)));
  const isFull = chosen.length >= MAX_CHOSEN;
  return (
    <fieldset class="models">
      <legend>Answered by</legend>
      {models.map((model) => (
        <label key={model}>
          <input type="checkbox" checked={chosen.includes(model)} disabled={isFull && !chosen.includes(model)} onChange={() => toggle(model)} />
          <span>{model}{model === base ? " (base)" : ""}</span>
        </label>
      ))}
    </fieldset>
  );
}
