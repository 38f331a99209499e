/** Numbers and states as a person reads them. */

/** What the engines and the exporter call their stages. @type {Record<string, string>} */
const STAGES = {
  cutout: "cutting the object out",
  condition: "looking at the picture",
  structure: "finding the rough structure",
  shape: "making the shape",
  outline: "tracing the outline",
  mesh: "making the mesh",
  inflate: "inflating the outline",
  back: "making the back",
  shape_export: "writing the untextured model",
  texture: "making the texture",
  colours: "taking the colours",
  surface: "taking the surface",
  voxels: "filling the voxels",
  decode: "decoding",
  texture_export: "writing the textured model",
  exporter: "preparing the exporter",
  clean: "cleaning the mesh",
  decimate: "taking faces away",
  remesh: "making the mesh anew",
  unwrap: "unwrapping it",
  bake: "baking the textures",
  encode: "encoding the textures",
  pack: "packing the file",
};

/** @param {string | undefined} stage */
export function stageWords(stage) {
  return stage ? (STAGES[stage] ?? stage.replaceAll("_", " ")) : "";
}

/** @param {number} seconds */
export function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** @param {number} fraction */
export function percent(fraction) {
  return `${Math.floor(fraction * 100)} %`;
}

/** @param {number} seconds Unix. */
export function clock(seconds) {
  const date = new Date(seconds * 1e3);
  const isToday = date.toDateString() === new Date().toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const time = { hour: "2-digit", minute: "2-digit" };
  return isToday
    ? date.toLocaleTimeString([], time)
    : date.toLocaleString([], { day: "numeric", month: "short", ...time });
}
