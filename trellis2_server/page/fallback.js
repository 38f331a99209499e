/** Pictures of a model that the server draws, for browsers that cannot show it in 3D. */

import * as api from "./api.js";

const SIZE_PX = 320;
const ATTEMPTS = 5;
const PAUSE_MS = 2_000;

/**
 * A picture that turns around the model or, where the user prefers less motion, one view.
 * @param {api.Job} job
 * @param {AbortSignal} signal
 * @returns {Promise<Blob | null>} null: there is none.
 */
export async function serverPicture(job, signal) {
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const url = isStill ? job.thumbnail_url : job.turntable_url;
  if (!url) return null;
  for (let attempt = 1; !signal.aborted; attempt++) {
    try {
      return await api.file(`${url}?size=${SIZE_PX}`, signal);
    } catch (error) {
      const isTemporary = error instanceof api.ServerError && error.isTemporary;
      if (!isTemporary || attempt === ATTEMPTS) return null;
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }
  return null;
}
