/**
 * The server's routes as functions, and the API key that goes with them.
 *
 * What this module does not know: the page.
 */

/**
 * A job, as `GET /jobs/{id}` and the events describe it.
 * @typedef {object} Job
 * @property {string} uid
 * @property {"shape_processing" | "texture_processing" | "completed" | "error"} status
 * @property {string} engine
 * @property {string} [error] Why; `cancelled` for a cancelled job.
 * @property {number} [queue_position] 1: the next.
 * @property {string} [stage] What is being done now.
 * @property {number} [step]
 * @property {number} [steps]
 * @property {number} [progress] 0 … 1 of the present status.
 * @property {number} [eta_seconds] Until the present status ends.
 * @property {number} [resolution]
 * @property {string[]} [warnings]
 * @property {boolean} shape_ready
 * @property {boolean} texture_ready
 * @property {number} [created_at] Unix seconds.
 * @property {number} [finished_at]
 * @property {number} [seed]
 * @property {Record<string, unknown>} [parameters] As a client can send them.
 * @property {Record<string, number>} [timings] Seconds of each step that ended.
 * @property {Record<string, {bytes: number, url: string}>} [files] Those that are there.
 * @property {boolean} [can_export]
 */

/** The server's root, whatever prefix a proxy puts before it: this file is `page/api.js`. */
const ROOT = new URL("..", import.meta.url);
const KEY = "trellis2-api-key";

/** What the server said, in its own sentence. */
export class ServerError extends Error {
  /**
   * @param {string} sentence
   * @param {number} status of HTTP.
   */
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }

  /** Whether asking again later may help. */
  get isPassing() {
    return this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** Nobody answered. */
export class UnreachableError extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

/** @type {(sentence: string, isWrong: boolean) => Promise<string | null>} */
let askForKey = async () => null;
/** @type {Promise<string | null> | null} */
let asking = null;

/**
 * Has `ask` called when a request is refused for want of a key; it gives one, or null.
 * @param {(sentence: string, isWrong: boolean) => Promise<string | null>} ask
 */
export function whenKeyIsNeeded(ask) {
  askForKey = ask;
}

/** Whether a key is held. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The address of a route, for links and commands. @param {string} path */
export function address(path) {
  return new URL(path, ROOT).href;
}

/** @returns {Record<string, string>} */
function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  // A header's value is bytes: the server reads them as UTF-8.
  return key ? { "X-API-Key": String.fromCharCode(...new TextEncoder().encode(key)) } : {};
}

/**
 * The reply to a request, once a key is there if one is needed.
 * @param {string} path
 * @param {RequestInit} [how]
 * @returns {Promise<Response>}
 * @throws {ServerError | UnreachableError}
 */
async function request(path, how = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...how.headers, ...keyHeaders() };
    const reply = await fetch(address(path), { ...how, headers }).catch((error) => {
      throw how.signal?.aborted ? error : new UnreachableError();
    });
    if (reply.ok) return reply;
    const error = await refusal(reply);
    if (reply.status !== 401) throw error;
    const isStale = sessionStorage.getItem(KEY) !== key; // another request has asked meanwhile
    if (!isStale && !(await newKey(error.message, key !== null))) throw error;
  }
}

/**
 * @param {string} sentence
 * @param {boolean} isWrong
 */
async function newKey(sentence, isWrong) {
  asking ??= askForKey(sentence, isWrong).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  return key !== null;
}

/** @param {Response} reply */
async function refusal(reply) {
  const body = await reply.json().catch(() => null);
  const sentence = body?.text ?? `The server answered ${reply.status} ${reply.statusText}.`;
  return new ServerError(sentence, reply.status);
}

/**
 * Whether the server serves, and with what; a 503 is an answer too.
 * @returns {Promise<{status: string, engine: string, error?: string, stage?: string,
 *   progress?: number, notes?: string[], version?: string}>}
 */
export async function health() {
  const reply = await fetch(address("healthcheck"), { headers: keyHeaders() }).catch(() => {
    throw new UnreachableError();
  });
  return reply.json().catch(() => {
    throw new UnreachableError();
  });
}

/** The fields of a request. @returns {Promise<import("./settings.js").Options>} */
export async function options() {
  return (await request("page/options")).json();
}

/**
 * Sends a picture; gives the job's name.
 * @param {Blob} picture
 * @param {string} name
 * @param {Record<string, string>} fields
 * @returns {Promise<string>}
 */
export async function send(picture, name, fields) {
  const body = new FormData();
  for (const [field, value] of Object.entries(fields)) body.set(field, value);
  body.set("image", picture, name);
  return (await (await request("send", { method: "POST", body })).json()).uid;
}

/** A job as the server wrote it; what is null there is absent here. @param {any} raw */
export function asJob(raw) {
  const known = Object.entries(raw).filter(([, value]) => value !== null);
  return /** @type {Job} */ (Object.fromEntries(known));
}

/** @param {string} id @param {AbortSignal} [signal] */
export async function job(id, signal) {
  return asJob(await (await request(`jobs/${id}`, { signal })).json());
}

/**
 * The jobs of this server, the latest first.
 * @param {string | null} [before] a uid.
 * @returns {Promise<{jobs: Job[], next: string | null}>}
 */
export async function jobs(before = null) {
  const reply = await request(`jobs?limit=20${before ? `&before=${before}` : ""}`);
  const page = await reply.json();
  return { jobs: page.jobs.map(asJob), next: page.next ?? null };
}

/** Cancels a job. @param {string} id */
export async function cancel(id) {
  await request(`jobs/${id}`, { method: "DELETE" });
}

/**
 * The job's state now and at every change, as bytes of an event stream.
 * @param {string} id
 * @param {AbortSignal} signal
 */
export async function events(id, signal) {
  const headers = { Accept: "text/event-stream" };
  return request(`events/${id}`, { signal, headers, cache: "no-store" });
}

/** A file of a job. @param {string} path as the job names it. @param {AbortSignal} [signal] */
export async function file(path, signal) {
  return (await request(path, { signal })).blob();
}

/**
 * The job's model, exported again.
 * @param {string} id
 * @param {Record<string, unknown>} how
 */
export async function exported(id, how) {
  const headers = { "Content-Type": "application/json" };
  const reply = await request(`jobs/${id}/export`, {
    method: "POST",
    headers,
    body: JSON.stringify(how),
  });
  return reply.blob();
}
