/**
 * The server's routes as functions, and the API key that is sent with each request.
 *
 * Does not know: the page.
 */

/**
 * A job, as `GET /jobs/{id}` and the events describe it.
 * @typedef {object} Job
 * @property {string} uid
 * @property {"shape_processing" | "texture_processing" | "completed" | "error"} status
 * @property {string} engine
 * @property {string} [error] Cause; `cancelled` for a cancelled job.
 * @property {number} [queue_position] 1 is the next job.
 * @property {string} [stage] Current stage.
 * @property {number} [step] Finished iterations of the stage.
 * @property {number} [steps] Total iterations of the stage.
 * @property {number} [progress] Progress of the current status, 0 … 1.
 * @property {number} [eta_seconds] Estimated time to the end of the current status, seconds.
 * @property {number} [resolution]
 * @property {string[]} [warnings]
 * @property {Record<string, string>} [details] What the engine decided, by name.
 * @property {boolean} shape_ready
 * @property {boolean} texture_ready
 * @property {number} [created_at] Unix seconds.
 * @property {number} [finished_at]
 * @property {number} [seed]
 * @property {Record<string, unknown>} [parameters] Request fields that reproduce the job.
 * @property {Record<string, number>} [timings] Duration of each finished step, seconds.
 * @property {Record<string, {bytes: number, url: string}>} [files] Available files.
 * @property {boolean} [can_export]
 * @property {string} [thumbnail_url] URL of a picture of the model, if there is one.
 * @property {string} [turntable_url]
 */

/** URL of the server's root, relative to this file, `page/api.js`; a proxy may add a prefix. */
const ROOT = new URL("..", import.meta.url);
const KEY = "trellis2-api-key";

/** An error response of the server. */
export class ServerError extends Error {
  /**
   * @param {string} message The server's text.
   * @param {number} status HTTP status.
   */
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether a retry may succeed. */
  get isTemporary() {
    return this.status === 429 || this.status === 502 || this.status === 503 || this.status === 504;
  }
}

/** The server did not respond. */
export class UnreachableError extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

/** @type {(message: string, isWrong: boolean) => Promise<string | null>} */
let promptForKey = async () => null;
/** @type {Promise<string | null> | null} */
let openPrompt = null;

/**
 * Sets the function that is called when a request needs a key. It returns a key, or null.
 * @param {(message: string, isWrong: boolean) => Promise<string | null>} prompt
 */
export function setKeyPrompt(prompt) {
  promptForKey = prompt;
}

/** Whether a key is stored. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** The absolute URL of a route. @param {string} path */
export function address(path) {
  return new URL(path, ROOT).href;
}

/** @returns {Record<string, string>} */
function keyHeaders() {
  const key = sessionStorage.getItem(KEY);
  // Values of headers are bytes; the server decodes them as UTF-8.
  return key ? { "X-API-Key": String.fromCharCode(...new TextEncoder().encode(key)) } : {};
}

/**
 * Sends a request; prompts for a key if one is needed.
 * @param {string} path
 * @param {RequestInit} [init]
 * @returns {Promise<Response>}
 * @throws {ServerError | UnreachableError}
 */
async function request(path, init = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...init.headers, ...keyHeaders() };
    const response = await fetch(address(path), { ...init, headers }).catch((error) => {
      throw init.signal?.aborted ? error : new UnreachableError();
    });
    if (response.ok) return response;
    const error = await errorOf(response);
    if (response.status !== 401) throw error;
    const isReplaced = sessionStorage.getItem(KEY) !== key; // by the prompt of another request
    if (!isReplaced && !(await newKey(error.message, key !== null))) throw error;
  }
}

/**
 * @param {string} message
 * @param {boolean} isWrong whether the request had a key.
 */
async function newKey(message, isWrong) {
  openPrompt ??= promptForKey(message, isWrong).finally(() => (openPrompt = null));
  const key = await openPrompt;
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  return key !== null;
}

/** @param {Response} response */
async function errorOf(response) {
  const body = await response.json().catch(() => null);
  const message = body?.text ?? `The server answered ${response.status} ${response.statusText}.`;
  return new ServerError(message, response.status);
}

/**
 * The health of the server, also if the status is 503.
 * @returns {Promise<{status: string, engine: string, error?: string, stage?: string,
 *   progress?: number, notes?: string[], version?: string}>}
 */
export async function health() {
  const response = await fetch(address("healthcheck"), { headers: keyHeaders() }).catch(() => {
    throw new UnreachableError();
  });
  return response.json().catch(() => {
    throw new UnreachableError();
  });
}

/** The fields of a generation request. @returns {Promise<import("./settings.js").Options>} */
export async function options() {
  return (await request("page/options")).json();
}

/**
 * Sends pictures of one object, and a mesh if there is one; returns the uid of their job.
 * @param {[field: string, file: File][]} pictures
 * @param {Record<string, string>} fields
 * @param {File | null} [mesh]
 * @returns {Promise<string>}
 */
export async function send(pictures, fields, mesh = null) {
  const body = new FormData();
  for (const [field, value] of Object.entries(fields)) body.set(field, value);
  for (const [field, file] of pictures) body.append(field, file, file.name);
  if (mesh) body.append("mesh", mesh, mesh.name);
  const response = await request("send", { method: "POST", body });
  const { uid } = await response.json();
  return response.headers.get("X-Job-Id") ?? uid; // as the list of jobs has it
}

/** A job from the server's JSON, without its null values. @param {any} raw */
export function asJob(raw) {
  const present = Object.entries(raw).filter(([, value]) => value !== null);
  return /** @type {Job} */ (Object.fromEntries(present));
}

/** @param {string} id @param {AbortSignal} [signal] */
export async function job(id, signal) {
  return asJob(await (await request(`jobs/${id}`, { signal })).json());
}

/**
 * A page of the jobs of this server, newest first.
 * @param {string | null} [before] `next` of the previous page.
 * @returns {Promise<{jobs: Job[], next: string | null}>}
 */
export async function jobs(before = null) {
  const response = await request(`jobs?limit=20${before ? `&before=${before}` : ""}`);
  const page = await response.json();
  return { jobs: page.jobs.map(asJob), next: page.next ?? null };
}

/** Cancels a job. @param {string} id */
export async function cancel(id) {
  await request(`jobs/${id}`, { method: "DELETE" });
}

/**
 * An event stream of the job's state, now and after each change.
 * @param {string} id
 * @param {AbortSignal} signal
 */
export async function events(id, signal) {
  const headers = { Accept: "text/event-stream" };
  return request(`events/${id}`, { signal, headers, cache: "no-store" });
}

/** A file of a job. @param {string} path `url` of the file. @param {AbortSignal} [signal] */
export async function file(path, signal) {
  return (await request(path, { signal })).blob();
}

/**
 * Exports the job's model again; returns the file, and warnings about it.
 * @param {string} id
 * @param {Record<string, unknown>} parameters
 * @returns {Promise<{content: Blob, warnings: string[]}>}
 */
export async function exportModel(id, parameters) {
  const headers = { "Content-Type": "application/json" };
  const response = await request(`jobs/${id}/export`, {
    method: "POST",
    headers,
    body: JSON.stringify(parameters),
  });
  const warnings = JSON.parse(response.headers.get("X-Warnings") ?? "[]");
  return { content: await response.blob(), warnings };
}
