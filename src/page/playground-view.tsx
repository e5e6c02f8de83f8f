/** @jsxImportSource preact */
/** One prompt to the base and to several adapters at once, which share every step of the model. */
import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import { AnswerColumn, type ColumnState, isOver } from "./answer-column.tsx";
import { type Keys, messageOf } from "./api.ts";
import type { LiveState } from "./live-state.ts";
import { ModelPicker } from "./model-picker.tsx";
import { streamAnswer } from "./stream-answer.ts";

interface PlaygroundViewProps {
  readonly state: LiveState;
  readonly keys: Keys;
}

export function PlaygroundView({ state, keys }: PlaygroundViewProps): JSX.Element {
  const base = state.server.model;
  const [prompt, setPrompt] = useState("Write SQL: How many users have age at least 12?");
  const [chosen, setChosen] = useState<readonly string[]>(() => [base, ...state.adapters.slice(0, 2).map(({ name }) => name)]);
  const [maxTokens, setMaxTokens] = useState(64);
  const [temperature, setTemperature] = useState(0);
  const [columns, setColumns] = useState<readonly ColumnState[]>([]);
  const abort = useRef<AbortController | null>(null);
  // Without those that were unloaded since.
  const models = chosen.filter((model) => model === base || state.adapters.some(({ name }) => name === model));
  const numOver = columns.filter(isOver).length;
  const isRunning = numOver < columns.length;

  const send = (): void => {
    abort.current?.abort();
    const current = new AbortController();
    abort.current = current;
    setColumns(models.map((model) => ({ model, isBase: model === base, text: "", end: null, error: null })));
    const change = (model: string, next: (column: ColumnState) => ColumnState): void => {
      if (abort.current === current) setColumns((before) => before.map((column) => (column.model === model ? next(column) : column)));
    };
    for (const model of models) {
      const ask = { model, prompt, isChat: state.server.hasChat, maxTokens, temperature };
      streamAnswer(keys, ask, current.signal, (text) => change(model, (column) => ({ ...column, text: column.text + text }))).then(
        (end) => change(model, (column) => ({ ...column, end })),
        (thrown: unknown) => change(model, (column) => ({ ...column, error: current.signal.aborted ? "stopped" : messageOf(thrown) })),
      );
    }
  };
  const submit = (event: Event): void => {
    event.preventDefault();
    if (models.length > 0 && prompt.trim() !== "") send();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit(event);
  };

  return (
    <section aria-labelledby="playground-title">
      <h2 id="playground-title">Playground</h2>
      <form class="ask" onSubmit={submit}>
        <label for="prompt">Prompt</label>
        <textarea id="prompt" rows={3} value={prompt} onInput={(event) => setPrompt(event.currentTarget.value)} onKeyDown={onKeyDown} />
        <ModelPicker base={base} adapters={state.adapters.map(({ name }) => name)} chosen={models} onChange={setChosen} />
        <div class="options">
          <div class="field">
            <label for="max-tokens">Most tokens</label>
            <input id="max-tokens" type="number" min={1} max={state.server.maxContext} value={maxTokens} onInput={(event) => setMaxTokens(event.currentTarget.valueAsNumber || 1)} />
          </div>
          <div class="field">
            <label for="temperature">Temperature</label>
            <input id="temperature" type="number" min={0} max={2} step={0.1} value={temperature} onInput={(event) => setTemperature(event.currentTarget.valueAsNumber || 0)} />
          </div>
          <div class="actions">
            {isRunning && <button type="button" onClick={() => abort.current?.abort()}>Stop</button>}
            <button type="submit" class="primary" disabled={models.length === 0 || prompt.trim() === ""}>Send</button>
          </div>
        </div>
      </form>
      <p role="status" class="visually-hidden">{columns.length === 0 ? "" : `${numOver} of ${columns.length} answers are complete`}</p>
      <div class="answers">
        {columns.map((column) => <AnswerColumn key={column.model} column={column} />)}
      </div>
    </section>
  );
}
