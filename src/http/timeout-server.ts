/** What is needed of `Bun.serve`: that one request may be silent for longer than its idle timeout; 0 seconds is for ever. */
export interface TimeoutServer {
  /** Sets the idle timeout of one request's connection. */
  timeout(request: Request, seconds: number): void;
}
