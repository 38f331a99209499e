/** The progress of a job: its three steps, a progress bar and a status line. */

import { isCancelled, isFinished } from "./job.js";
import { duration, percent, stageWords } from "./words.js";

/** @typedef {import("./api.js").Job} Job */
/** @typedef {"done" | "current" | "pending" | "failed" | "skipped"} State */

/**
 * The state of each step.
 * @param {Job} job
 * @returns {{name: string, state: State, seconds: number}[]}
 */
export function stepsOf(job) {
  const isCutOut = job.shape_ready || Boolean(job.files?.["input.png"]);
  const isDone = [isCutOut, job.shape_ready, job.texture_ready];
  const timings = job.timings ?? {};
  const seconds = [
    timings.cutout ?? 0,
    (timings.shape ?? 0) + (timings.shape_export ?? 0),
    (timings.texture ?? 0) + (timings.texture_export ?? 0),
  ];
  const first = isDone.indexOf(false);
  return ["Cut-out", "Shape", "Texture"].map((name, at) => ({
    name,
    state: isDone[at] ? "done" : stateOf(job, at === first),
    seconds: isDone[at] ? seconds[at] : 0,
  }));
}

/** @param {Job} job @param {boolean} isFirst @returns {State} */
function stateOf(job, isFirst) {
  if (job.status === "completed") return "skipped";
  if (job.status === "error") return isFirst ? "failed" : "skipped";
  return isFirst ? "current" : "pending";
}

/** The status line of a job. @param {Job} job */
export function statusLineOf(job) {
  if (isCancelled(job)) return "Cancelled.";
  if (job.status === "error") return "Failed.";
  if (isFinished(job)) {
    const seconds = (job.finished_at ?? 0) - (job.created_at ?? 0);
    const parts = [
      job.texture_ready ? "Done" : "Shape done",
      seconds > 0 ? `in ${duration(seconds)}` : "",
    ];
    const facts = [
      job.seed === undefined ? "" : `seed ${job.seed}`,
      job.resolution ? `${job.resolution} voxels` : "",
      ...Object.entries(job.details ?? {}).map(([name, value]) => `${name} ${value}`),
    ];
    return [parts.filter(Boolean).join(" "), ...facts].filter(Boolean).join(" · ");
  }
  if (job.queue_position && !job.stage) {
    const ahead = job.queue_position - 1;
    return [ahead ? `Waiting in the queue: ${ahead} ahead` : "Next in the queue", timeLeft(job)]
      .filter(Boolean)
      .join(" · ");
  }
  const steps = job.step && job.steps && job.steps > 1 ? ` (${job.step} of ${job.steps})` : "";
  const stage = stageWords(job.stage) || "waiting";
  const progress = job.progress === undefined ? "" : percent(job.progress);
  return [stage[0].toUpperCase() + stage.slice(1) + steps, progress, timeLeft(job)]
    .filter(Boolean)
    .join(" · ");
}

/** @param {Job} job */
function timeLeft(job) {
  if (job.eta_seconds === undefined || job.eta_seconds <= 0) return "";
  const result = job.status === "texture_processing" ? "the texture" : "the shape";
  return `about ${duration(job.eta_seconds)} until ${result} is ready`;
}

/** A message for screen readers, which changes once per step. @param {Job} job */
export function announcementOf(job) {
  if (isCancelled(job)) return "Cancelled.";
  if (job.status === "error") return ""; // the alert is announced
  if (job.status === "completed") {
    return job.texture_ready ? "The textured model is ready." : "The untextured model is ready.";
  }
  if (job.status === "texture_processing") {
    return "The untextured model is ready. Its texture is being generated.";
  }
  if (job.stage === "picture") return "The text was sent. Its picture is being made.";
  const isCutOut = Boolean(job.files?.["input.png"]);
  return isCutOut ? "The cut-out is ready. The shape is being generated." : "The picture was sent.";
}

/**
 * @param {HTMLElement} list
 * @param {Job} job
 */
export function showSteps(list, job) {
  const steps = stepsOf(job);
  steps.forEach(({ name, state, seconds }, at) => {
    const item = list.children[at] ?? list.appendChild(document.createElement("li"));
    const text = seconds ? `${name} ${duration(seconds)}` : name;
    if (item.textContent !== text) {
      item.textContent = name;
      if (seconds) {
        const time = item.appendChild(document.createElement("span"));
        time.textContent = ` ${duration(seconds)}`;
      }
    }
    item.setAttribute("data-state", state);
    if (state === "current") item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

/** Progress of the whole job, 0 … 1; null if unknown. @param {Job} job */
export function fractionOf(job) {
  if (isFinished(job)) return 1;
  if (job.progress === undefined) return null;
  return (job.status === "texture_processing" ? 0.5 : 0) + job.progress / 2;
}
