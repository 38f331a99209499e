/** Following one job to its end, over whatever the network does meanwhile. */

import * as api from "./api.js";
import { readEvents } from "./events.js";

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 15_000;
const POLL_MS = 1_500;
/** The state comes at once; a proxy that holds a stream back is found by this. */
const FIRST_EVENT_MS = 6_000;
/** The server sends a sign of life every 15 s. */
const SILENCE_MS = 40_000;

/** Whether a job will not change any more by itself. @param {api.Job} job */
export function isFinished(job) {
  return job.status === "completed" || job.status === "error";
}

/** @param {api.Job} job */
export function isCancelled(job) {
  return job.status === "error" && /^cancelled/.test(job.error ?? "");
}

/**
 * Tells every state of a job, to its last.
 *
 * A stream that breaks is opened again, after longer and longer pauses; where streams do not
 * come through, the job is asked for instead.
 * @param {string} id
 * @param {(job: api.Job) => void} tell
 * @param {(sentence: string | null) => void} tellTrouble a sentence while the connection is
 *   lost, null when it is there again.
 * @param {AbortSignal} signal
 * @throws {api.ServerError} the server knows no such job, or does not let us see it.
 */
export async function follow(id, tell, tellTrouble, signal) {
  let pause_ms = FIRST_PAUSE_MS;
  let [now, otherwise] = [streamed, polled];
  while (!signal.aborted) {
    let hasCome = false;
    try {
      for await (const job of now(id, signal)) {
        hasCome = true;
        pause_ms = FIRST_PAUSE_MS;
        tellTrouble(null);
        tell(job);
        if (isFinished(job)) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof api.ServerError && !error.isPassing) throw error;
      const sentence = error instanceof api.ServerError ? error.message : "The connection is lost.";
      if (hasCome || now === polled) tellTrouble(`${sentence} Trying again.`);
    }
    if (!hasCome) [now, otherwise] = [otherwise, now];
    if (hasCome || now === streamed) {
      await pause(pause_ms * (0.75 + Math.random() / 2), signal);
      pause_ms = Math.min(pause_ms * 2, LONGEST_PAUSE_MS);
    }
  }
}

/**
 * @param {string} id
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<api.Job>}
 */
async function* streamed(id, signal) {
  const silence = new AbortController();
  const giveUp = () => silence.abort();
  signal.addEventListener("abort", giveUp);
  let timer = setTimeout(giveUp, FIRST_EVENT_MS);
  const wait = () => {
    clearTimeout(timer);
    timer = setTimeout(giveUp, SILENCE_MS);
  };
  try {
    const reply = await api.events(id, silence.signal);
    if (!reply.body) return;
    for await (const { event, data } of readEvents(reply.body, wait)) {
      if (event === "status" || event === "end") yield api.asJob(JSON.parse(data));
    }
  } finally {
    clearTimeout(timer);
    signal.removeEventListener("abort", giveUp);
    silence.abort();
  }
}

/**
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
