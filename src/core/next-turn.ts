/**
 * Collects tasks and runs them together in the next turn of the event loop.
 *
 * @param yieldTurn resolves in a later turn of the event loop
 * @returns what takes a task; tasks run in the order given and must not throw
 */
export function inNextTurn(yieldTurn: () => Promise<void>): (task: () => void) => void {
  let tasks: (() => void)[] = [];
  const runAll = (): void => {
    const due = tasks;
    tasks = [];
    for (const task of due) task();
  };
  return (task) => {
    if (tasks.push(task) === 1) void yieldTurn().then(runAll);
  };
}
