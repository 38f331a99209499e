/** Numbers and names of stages, formatted for people. */

/** Stages of the engines and the exporter. @type {Record<string, string>} */
const STAGES = {
  loading: "loading the engine",
  load: "loading the engine",
  compile: "compiling the engine",
  exporter: "compiling the exporter",
  "background model": "loading the background model",
  picture: "making a picture of the text",
  read: "reading the mesh",
  condition: "encoding the picture",
  structure: "generating the rough structure",
  shape: "generating the shape",
  outline: "tracing the outline",
  mesh: "building the mesh",
  inflate: "inflating the outline",
  back: "building the back",
  texture: "generating the texture",
  colours: "sampling the colours",
  surface: "sampling the surface",
  voxels: "filling the voxels",
  decode: "decoding",
  retry: "trying again with less memory",
  export: "exporting the model",
  clean: "cleaning the mesh",
  decimate: "reducing the faces",
  remesh: "remeshing",
  unwrap: "unwrapping the mesh",
  bake: "baking the textures",
  encode: "encoding the textures",
  levels: "making levels of detail",
  pack: "writing the file",
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

/** @param {number} seconds Unix time. */
export function clock(seconds) {
  const date = new Date(seconds * 1e3);
  const isToday = date.toDateString() === new Date().toDateString();
  /** @type {Intl.DateTimeFormatOptions} */
  const time = { hour: "2-digit", minute: "2-digit" };
  return isToday
    ? date.toLocaleTimeString([], time)
    : date.toLocaleString([], { day: "numeric", month: "short", ...time });
}
