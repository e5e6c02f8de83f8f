/** The id by which a client, the log and a trace speak of one request. */

const ids = new WeakMap<Request, string>();

/** The client's own `x-request-id` where it is of up to 128 plain characters, else one made here; the same for each call. */
export function requestIdOf(request: Request): string {
  const known = ids.get(request);
  if (known !== undefined) return known;
  const given = request.headers.get("x-request-id");
  const id = given !== null && /^[\w.:-]{1,128}$/.test(given) ? given : crypto.randomUUID();
  ids.set(request, id);
  return id;
}
