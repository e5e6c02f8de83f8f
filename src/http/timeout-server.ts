/** What is needed of `Bun.serve`: that one request may be silent for longer than its idle timeout; 0 seconds is for ever. */
export interface TimeoutServer {
  timeout(request: Request, seconds: number): void;
}
