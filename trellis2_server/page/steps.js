/** How far a job is: its three steps, a bar, and one line. */

import { isCancelled, isFinished } from "./job.js";
import { duration, percent, stageWords } from "./words.js";

/** @typedef {import("./api.js").Job} Job */
/** @typedef {"done" | "now" | "later" | "failed" | "left out"} State */

/**
 * The state of each step.
 * @param {Job} job
 * @returns {{name: string, state: State, seconds: number}[]}
 */
export function stepsOf(job) {
  const isCutOut = job.shape_ready || Boolean(job.files?.["input.png"]);
  const isDone = [isCutOut, job.shape_ready, job.texture_ready];
  const times = job.timings ?? {};
  const seconds = [
    times.cutout ?? 0,
    (times.shape ?? 0) + (times.shape_export ?? 0),
    (times.texture ?? 0) + (times.texture_export ?? 0),
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
  if (job.status === "completed") return "left out";
  if (job.status === "error") return isFirst ? "failed" : "left out";
  return isFirst ? "now" : "later";
}

/** One line on what is going on. @param {Job} job */
export function lineOf(job) {
  if (isCancelled(job)) return "Cancelled.";
  if (job.status === "error") return "It failed.";
  if (isFinished(job)) {
    const seconds = (job.finished_at ?? 0) - (job.created_at ?? 0);
    const parts = [
      job.texture_ready ? "Done" : "The shape is done",
      seconds > 0 ? `in ${duration(seconds)}` : "",
    ];
    const facts = [
      job.seed === undefined ? "" : `seed ${job.seed}`,
      job.resolution ? `${job.resolution} voxels` : "",
    ];
    return [parts.filter(Boolean).join(" "), ...facts].filter(Boolean).join(" · ");
  }
  if (job.queue_position && !job.stage) {
    const ahead = job.queue_position - 1;
    return [ahead ? `Waiting: ${ahead} before it` : "Next in the queue", left(job)]
      .filter(Boolean)
      .join(" · ");
  }
  const steps = job.step && job.steps && job.steps > 1 ? ` (${job.step} of ${job.steps})` : "";
  const what = stageWords(job.stage) || "waiting";
  const how = job.progress === undefined ? "" : percent(job.progress);
  return [what[0].toUpperCase() + what.slice(1) + steps, how, left(job)]
    .filter(Boolean)
    .join(" · ");
}

/** @param {Job} job */
function left(job) {
  if (job.eta_seconds === undefined || job.eta_seconds <= 0) return "";
  const what = job.status === "texture_processing" ? "the texture" : "the shape";
  return `about ${duration(job.eta_seconds)} to ${what}`;
}

/** What a listener is told, at each step alone. @param {Job} job */
export function announcementOf(job) {
  if (isCancelled(job)) return "Cancelled.";
  if (job.status === "error") return ""; // the alert says it
  if (job.status === "completed") {
    return job.texture_ready ? "The textured model is there." : "The model is there.";
  }
  if (job.status === "texture_processing") {
    return "The untextured model is there; its texture is being made.";
  }
  const isCutOut = Boolean(job.files?.["input.png"]);
  return isCutOut ? "The picture is cut out; its shape is being made." : "The picture is sent.";
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
    if (state === "now") item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
}

/** 0 … 1 of the whole way; null while that is not known. @param {Job} job */
export function fractionOf(job) {
  if (isFinished(job)) return 1;
  if (job.progress === undefined) return null;
  return (job.status === "texture_processing" ? 0.5 : 0) + job.progress / 2;
}
