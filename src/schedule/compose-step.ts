/** What the next step computes. */
import { NO_SLOT, type SlotId } from "../core/ids.ts";
import { growTable, pagesMissing } from "../kv/page-table.ts";
import { hasStartable, holdsPages, nextToStart } from "./fair-order.ts";
import { charge, joinRunning, laneOf, leaveQueue } from "./lanes.ts";
import { findPrefix, takePrefix } from "./prefixes.ts";
import { reservePages } from "./preempt.ts";
import { hasPages, maxRunning, promisedPages } from "./room.ts";
import type { ScheduleTable } from "./schedule-table.ts";
import { isAtEnd, isDecoding, isScoring, numUncomputed, plannedLength, type Sequence } from "./sequence.ts";

/** Consecutive positions of one sequence, all with its adapter or all without. */
export interface PlanEntry {
  readonly sequence: Sequence;
  readonly slot: SlotId;
  /** First position computed. */
  readonly position: number;
  /** At least 1; the sequence has pages for all of them. */
  numRows: number;
  /** Where the only row's token is still to come: which sample of the step before picks it. */
  readonly awaitedSample: number | null;
  /** Rows whose next token is one of the prompt's and is to be scored; not again for those computed a second time. */
  numScores: number;
  /** Whether it computes the newest token, so that the next one is picked. */
  picksToken: boolean;
}

/** One step: entries sorted by slot, the base model first. A sequence has two where its adapter comes to act. */
export interface StepPlan {
  entries: PlanEntry[];
  numRows: number;
  /** Samples beyond one for each running sequence. */
  numScores: number;
}

/**
 * Composes the next step: one row for each decoding sequence, then chunks of prompts within the token
 * budget, running ones before new ones.
 *
 * Every prompt with another behind it gets half of the rows left, so that a long one does not hold up the
 * short ones; what the last ones leave goes to the first.
 *
 * Where a step is under way, this one comes behind it: rows of tokens that it picks are rows like others, in vain if
 * the sequence turns out to have ended.
 *
 * @returns a plan without entries when nothing can run
 * @complexity O(running + starts · lanes)
 */
export function composeStep(table: ScheduleTable, nowMs: number): StepPlan {
  const plan: StepPlan = { entries: [], numRows: 0, numScores: 0 };
  const numPreempted = table.counters.preemptions;
  table.numComposed++;
  const prefilling: Sequence[] = [];
  for (const sequence of table.running.slice()) {
    if (sequence.phase !== "running") continue;
    if (sequence.output.isReady === false || isAtEnd(sequence)) continue;
    if (!isDecoding(sequence)) prefilling.push(sequence);
    else if (reservePages(table, sequence, plannedLength(sequence))) addRows(table, plan, sequence, 1);
  }
  continuePrefills(table, plan, prefilling);
  // Before new ones start: a sequence that was preempted just now may be among them.
  if (table.counters.preemptions > numPreempted) dropPreempted(table, plan);
  startWaiting(table, plan, nowMs);
  giveRest(table, plan);
  splitAtActivation(table, plan);

  if (plan.entries.length === 0) return plan;
  // Prompts were put behind what decodes, whichever started first.
  if (prefilling.length > 0) plan.entries.sort((a, b) => a.sequence.startOrder - b.sequence.startOrder);
  plan.entries = bySlot(plan.entries);
  putUnderWay(plan);
  table.numUnderWay++;
  table.step++;
  return plan;
}

/** Notes in the records what the step will have done to them. */
function putUnderWay(plan: StepPlan): void {
  let numSamples = 0;
  for (const entry of plan.entries) {
    const { sequence } = entry;
    const end = entry.position + entry.numRows;
    entry.numScores = scoresOf(entry);
    entry.picksToken = end === plannedLength(sequence);
    numSamples += entry.numScores;
    sequence.scheduled = end;
    sequence.numUnderWay++;
    if (!entry.picksToken) continue;
    sequence.numAwaited++;
    sequence.awaitedSample = numSamples++;
  }
}

function scoresOf({ sequence, position, numRows }: PlanEntry): number {
  if (!isScoring(sequence)) return 0;
  return Math.max(0, Math.min(position + numRows, sequence.promptLength - 1) - Math.max(position, sequence.scored));
}

/** Stable; by distribution, which takes 5 us for 256 entries where comparing them takes 12. */
function bySlot(entries: readonly PlanEntry[]): PlanEntry[] {
  const perSlot: PlanEntry[][] = [];
  for (const entry of entries) (perSlot[entry.slot - NO_SLOT] ??= []).push(entry);
  return perSlot.flat();
}

function addRows(table: ScheduleTable, plan: StepPlan, sequence: Sequence, numRows: number): void {
  const lane = laneOf(table, sequence);
  const awaitedSample = sequence.numAwaited > 0 ? sequence.awaitedSample : null;
  plan.entries.push({ sequence, slot: lane.group.slot, position: sequence.scheduled, numRows, awaitedSample, numScores: 0, picksToken: false });
  plan.numRows += numRows;
  if (isScoring(sequence)) plan.numScores += numRows - 1;
  // At once: who starts next in this very step goes by it.
  charge(lane, numRows);
}

/** Samples that nobody in the step needs, were every running sequence to pick a token. */
const samplesLeft = ({ limits, running }: ScheduleTable, { numScores }: StepPlan): number => limits.maxSequences - running.length - numScores;

/** Rows that a prompt may take, of those it is given: one that is scored needs a sample for each, its own among them. */
const scorable = (table: ScheduleTable, plan: StepPlan, sequence: Sequence, numRows: number): number =>
  isScoring(sequence) ? Math.min(numRows, Math.max(1, samplesLeft(table, plan) + 1)) : numRows;

/** Rows for a prompt: half of what is left while another prompt is behind it. */
function chunkRows(sequence: Sequence, rowsLeft: number, isLast: boolean): number {
  return Math.min(numUncomputed(sequence), isLast ? rowsLeft : Math.ceil(rowsLeft / 2));
}

function continuePrefills(table: ScheduleTable, plan: StepPlan, prefilling: Sequence[]): void {
  const hasPlace = table.running.length < maxRunning(table) && hasStartable(table);
  for (const [index, sequence] of prefilling.entries()) {
    const rowsLeft = table.limits.maxRows - plan.numRows;
    if (rowsLeft === 0) return;
    if (sequence.phase !== "running") continue;
    const isLast = index === prefilling.length - 1 && !hasPlace;
    const numRows = scorable(table, plan, sequence, chunkRows(sequence, rowsLeft, isLast));
    if (reservePages(table, sequence, sequence.scheduled + numRows)) {
      addRows(table, plan, sequence, numRows);
    }
  }
}

function startWaiting(table: ScheduleTable, plan: StepPlan, nowMs: number): void {
  if (table.numWaiting === 0) return;
  let promised = promisedPages(table);
  while (table.running.length < maxRunning(table) && plan.numRows < table.limits.maxRows && samplesLeft(table, plan) > 0) {
    const lane = nextToStart(table);
    if (lane === undefined) return;
    const sequence = lane.waiting[0]!;
    if (sequence.output.isReady === false) {
      lane.skippedAt = table.numComposed;
      continue;
    }
    const { pool } = table;
    const prefix = findPrefix(table, sequence);
    if (!hasPages(table, sequence, prefix, promised)) {
      if (holdsPages(table, lane)) return;
      lane.skippedAt = table.numComposed;
      continue;
    }
    if (lane === table.clearedFor) table.clearedFor = null;
    start(table, sequence, nowMs);
    takePrefix(table, sequence, prefix);
    const isLast = table.running.length === maxRunning(table) || !hasStartable(table);
    const numRows = scorable(table, plan, sequence, chunkRows(sequence, table.limits.maxRows - plan.numRows, isLast));
    growTable(pool, sequence.pages, sequence.scheduled + numRows);
    promised += pagesMissing(sequence.pages, sequence.length + 1, pool.pageTokens);
    addRows(table, plan, sequence, numRows);
  }
}

function start(table: ScheduleTable, sequence: Sequence, nowMs: number): void {
  leaveQueue(table, sequence);
  joinRunning(table, sequence);
  sequence.startOrder = table.nextStartOrder++;
  sequence.startStep = table.step;
  sequence.startLength = sequence.length;
  sequence.startedMs ??= nowMs;
}

/** Rows that nobody took go to the prompts of this step, first come first served, as free pages allow. */
function giveRest(table: ScheduleTable, plan: StepPlan): void {
  for (const entry of plan.entries) {
    const { sequence } = entry;
    if (isScoring(sequence)) continue;
    const rowsLeft = table.limits.maxRows - plan.numRows;
    const extra = Math.min(rowsLeft, numUncomputed(sequence) - entry.numRows);
    if (extra <= 0) continue;
    if (!growTable(table.pool, sequence.pages, entry.position + entry.numRows + extra)) continue;
    entry.numRows += extra;
    plan.numRows += extra;
    charge(laneOf(table, sequence), extra);
  }
}

function dropPreempted(table: ScheduleTable, plan: StepPlan): void {
  for (const { sequence, numRows } of plan.entries) {
    if (sequence.phase !== "running") charge(laneOf(table, sequence), -numRows);
  }
  plan.entries = plan.entries.filter(({ sequence }) => sequence.phase === "running");
  plan.numRows = plan.entries.reduce((sum, { numRows }) => sum + numRows, 0);
}

/**
 * Rows before an activation are the base model's and become an entry of their own, where the step has room for one;
 * else the rows behind it wait for the next step.
 */
function splitAtActivation(table: ScheduleTable, plan: StepPlan): void {
  if (plan.entries.every(({ sequence, position }) => position >= sequence.activeFrom)) return;
  const entries: PlanEntry[] = [];
  let room = table.limits.maxSequences - plan.entries.length;
  for (const entry of plan.entries) {
    const { sequence, position, numRows } = entry;
    const numBefore = Math.max(0, Math.min(numRows, sequence.activeFrom - position));
    if (numBefore > 0) entries.push({ ...entry, slot: NO_SLOT, numRows: numBefore });
    if (numBefore === numRows) continue;
    const rest = { ...entry, position: position + numBefore, numRows: numRows - numBefore };
    if (numBefore === 0 || room-- > 0) {
      entries.push(rest);
      continue;
    }
    plan.numRows -= rest.numRows;
    charge(laneOf(table, sequence), -rest.numRows);
  }
  plan.entries = entries;
}
