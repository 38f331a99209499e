/** Watching a job to its end, with reconnects. */

import * as api from "./api.js";
import { readEvents } from "./events.js";

const MIN_PAUSE_MS = 500;
const MAX_PAUSE_MS = 15_000;
const POLL_MS = 1_500;
/** The server sends the state at once; without it, a proxy buffers the stream. */
const FIRST_EVENT_TIMEOUT_MS = 6_000;
/** The server sends a heartbeat every 15 s. */
const SILENCE_TIMEOUT_MS = 40_000;

/** Whether a job has ended. @param {api.Job} job */
export function isFinished(job) {
  return job.status === "completed" || job.status === "error";
}

/** @param {api.Job} job */
export function isCancelled(job) {
  return job.status === "error" && /^cancelled/.test(job.error ?? "");
}

/** Whether a job ended before it had a cut-out. @param {api.Job} job */
export function hasFailedAtCutout(job) {
  return job.status === "error" && !job.shape_ready && !job.files?.["input.png"];
}

/**
 * Calls `onState` with each state of a job, until the job ends.
 *
 * A broken stream is opened again, with increasing pauses. If no event arrives, the job is polled
 * instead.
 * @param {string} id
 * @param {(job: api.Job) => void} onState
 * @param {(message: string | null) => void} onConnection called with a message when the
 *   connection is lost, and with null when it works.
 * @param {AbortSignal} signal
 * @throws {api.ServerError} the job does not exist, or access is denied.
 */
export async function watch(id, onState, onConnection, signal) {
  let pause_ms = MIN_PAUSE_MS;
  let [source, otherSource] = [streamed, polled];
  while (!signal.aborted) {
    let hasState = false;
    try {
      for await (const job of source(id, signal)) {
        hasState = true;
        pause_ms = MIN_PAUSE_MS;
        onConnection(null);
        onState(job);
        if (isFinished(job)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.ServerError && !error.isTemporary) throw error;
      const message = error instanceof api.ServerError ? error.message : "The connection is lost.";
      if (hasState || source === polled) onConnection(`${message} Trying again.`);
    }
    if (!hasState) [source, otherSource] = [otherSource, source];
    if (hasState || source === streamed) {
      await pause(pause_ms * (0.75 + Math.random() / 2), signal);
      pause_ms = Math.min(pause_ms * 2, MAX_PAUSE_MS);
    }
  }
}

/**
 * Yields the states of a job from its event stream.
 * @param {string} id
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<api.Job>}
 */
async function* streamed(id, signal) {
  const controller = new AbortController();
  const abort = () => controller.abort();
  signal.addEventListener("abort", abort);
  let timer = setTimeout(abort, FIRST_EVENT_TIMEOUT_MS);
  const restartTimer = () => {
    clearTimeout(timer);
    timer = setTimeout(abort, SILENCE_TIMEOUT_MS);
  };
  try {
    const response = await api.events(id, controller.signal);
    if (!response.body) return;
    for await (const { event, data } of readEvents(response.body, restartTimer)) {
      if (event === "status" || event === "end") yield api.asJob(JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    controller.abort();
  }
}

/**
 * Yields the state of a job at intervals.
 * @param {string} id
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<api.Job>}
 */
async function* polled(id, signal) {
  for (;;) {
    yield await api.job(id, signal);
    await pause(POLL_MS, signal);
  }
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal ends it early.
 * @returns {Promise<void>}
 */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
