/** @jsxImportSource preact */
import type { JSX } from "preact";
import { formatMs } from "./format.ts";
import type { Activity, Told } from "./use-activity.ts";

interface ActivityListProps {
  readonly activity: Activity;
  readonly hasAdmin: boolean;
}

export function ActivityList({ activity: { isOpen, told, problem }, hasAdmin }: ActivityListProps): JSX.Element {
  return (
    <section aria-labelledby="activity-title" class="activity">
      <h2 id="activity-title">Activity</h2>
      {!isOpen ? (
        <p class="note">{hasAdmin ? "With the admin key, what the server's actors do is told here as it happens." : "The server has no admin key, so what its actors do is not told."}</p>
      ) : problem !== null ? (
        <p class="note">{problem}</p>
      ) : told.length === 0 ? (
        <p class="note">Nothing has happened since the key was given.</p>
      ) : (
        <ol aria-label="Latest first" tabIndex={0}>
          {told.map((event) => <Line key={`${event.time} ${event.id}`} event={event} />)}
        </ol>
      )}
    </section>
  );
}

function Line({ event: { time, type, actor, state, adapter, error, reason, elapsedMs } }: { readonly event: Told }): JSX.Element {
  return (
    <li>
      <time dateTime={time}>{new Date(time).toLocaleTimeString("en", { hour12: false })}</time>
      <code>{type === "actor.entered" ? `${actor} ${state}` : type}</code>
      <span>{adapter ?? ""}</span>
      <span class="note">{error?.message ?? reason ?? (elapsedMs === undefined ? "" : formatMs(elapsedMs))}</span>
    </li>
  );
}
