/** The form of the request fields, whose bounds, descriptions and defaults the server provides. */

/**
 * JSON Schema of a field; only the keywords that this module uses.
 * @typedef {object} Schema
 * @property {string | string[]} [type]
 * @property {number} [minimum]
 * @property {number} [maximum]
 * @property {(string | number | null)[]} [enum]
 * @property {string} [description]
 * @property {unknown} [default]
 */
/**
 * @typedef {object} Options
 * @property {Record<string, Schema>} properties
 * @property {Record<string, {label: string, fields: Record<string, unknown>}>} purposes
 * @property {number} max_body_bytes
 * @property {number} max_image_pixels
 * @property {number | null} [max_text_length] null: the server takes no text without a picture.
 */

/** Labels by field; the stages share those of their sampler fields. */
export const LABELS = /** @type {Record<string, string>} */ ({
  seed: "Seed",
  depth: "Depth",
  back: "Back",
  pipeline_type: "Resolution",
  texture_size: "Texture size",
  decimation_target: "Faces",
  remove_background: "Remove the background",
  multi_image: "Several pictures",
  alpha_mode: "Transparency",
  texture_format: "Texture format",
  compress: "Compression",
  solid: "Solid for printing",
  min_wall_mm: "Least thickness of walls",
  occlusion: "Ambient occlusion",
  normal_map: "Normal map",
  lods: "Levels of detail, faces",
  type: "File type",
  up_axis: "Axis that points up",
  uv: "Texture coordinates",
  size_mm: "Size in millimetres",
  size_m: "Size in metres",
  origin: "Origin",
  sampling_steps: "Steps",
  guidance_scale: "Guidance",
  guidance_rescale: "Guidance rescale",
  guidance_interval: "Guidance from, to",
  rescale_t: "Time rescale",
});
const SAMPLER = [
  "sampling_steps",
  "guidance_scale",
  "guidance_rescale",
  "guidance_interval",
  "rescale_t",
];

/**
 * The groups of the form and their fields. Fields that the server does not have are omitted.
 * @type {{title: string, stage?: string, isForPreview?: boolean, fields: string[]}[]}
 */
const GROUPS = [
  { title: "The model", fields: ["seed", "pipeline_type", "texture_size", "decimation_target"] },
  { title: "Preview engine", isForPreview: true, fields: ["depth", "back"] },
  {
    title: "Picture and file",
    fields: [
      "remove_background",
      "multi_image",
      "alpha_mode",
      "texture_format",
      "occlusion",
      "normal_map",
      "lods",
    ],
  },
  { title: "Sampler: rough structure", stage: "ss", fields: SAMPLER },
  { title: "Sampler: shape", stage: "shape", fields: SAMPLER },
  { title: "Sampler: texture", stage: "tex", fields: SAMPLER },
];

/** Fields outside of the stages' groups that the preview engine ignores. */
const UNUSED_BY_PREVIEW = ["seed", "pipeline_type"];

export class Settings {
  /**
   * @param {HTMLFormElement} form
   * @param {HTMLButtonElement} reset
   */
  constructor(form, reset) {
    this.form = form;
    this.reset = reset;
    /** @type {Options | null} */
    this.options = null;
    reset.addEventListener("click", () => (form.reset(), this.#updateReset()));
    form.addEventListener("input", () => this.#updateReset());
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  /**
   * @param {Options} options
   * @param {boolean} isPreview whether the engine ignores the sampler fields.
   */
  show(options, isPreview) {
    this.options = options;
    this.form.replaceChildren(
      ...GROUPS.map(({ title, stage, isForPreview, fields }, index) => {
        const group = document.createElement("details");
        group.open = index === 0;
        const summary = group.appendChild(document.createElement("summary"));
        summary.textContent = title;
        if (isPreview && stage) summary.append(previewNote());
        if (isPreview ? stage : isForPreview) {
          const note = group.appendChild(document.createElement("p"));
          note.className = "muted";
          note.textContent = isPreview
            ? "For TRELLIS.2 only; the preview engine ignores these fields."
            : "For the preview engine only; TRELLIS.2 ignores these fields.";
        }
        const grid = group.appendChild(document.createElement("div"));
        grid.className = "fields";
        const names = stage ? fields.map((name) => `${stage}_${name}`) : fields;
        grid.append(...fieldRows(options, names));
        for (const row of isPreview ? grid.children : []) {
          const name = /** @type {HTMLInputElement} */ (row.querySelector("[name]")).name;
          if (UNUSED_BY_PREVIEW.includes(name)) row.querySelector(".hint")?.append(previewNote());
        }
        return group;
      }),
    );
    this.#updateReset();
  }

  #updateReset() {
    this.reset.hidden = Object.keys(this.values()).length === 0;
  }

  /** The values of the fields that the user has set. */
  values() {
    return valuesOf(this.form);
  }

  /** The server's defaults, by field. */
  defaults() {
    const properties = Object.entries(this.options?.properties ?? {});
    return Object.fromEntries(properties.map(([name, schema]) => [name, schema.default]));
  }

  /** Throws an error if the server would refuse a file for its size. @param {(File | null)[]} files */
  checkSize(...files) {
    const limit = this.options?.max_body_bytes ?? Infinity;
    for (const file of files) {
      if (!file || file.size <= limit) continue;
      const [size, max] = [file.size, limit].map((bytes) => `${Math.ceil(bytes / 1e6)} MB`);
      throw new Error(`${file.name} has ${size}; the limit of this server is ${max}.`);
    }
  }
}

function previewNote() {
  const note = document.createElement("span");
  note.className = "preview-note";
  note.textContent = " Not used by the preview engine.";
  return note;
}

/** @param {HTMLFormElement} form @returns {Record<string, string>} */
export function valuesOf(form) {
  /** @type {Record<string, string>} */
  const values = {};
  for (const [name, value] of new FormData(form)) {
    if (typeof value === "string" && value.trim() !== "") values[name] = value.trim();
  }
  return values;
}

/**
 * An input with a label and a description for each field that the server has.
 * @param {Options} options
 * @param {string[]} names
 * @param {string} [prefix] prefix of the elements' ids.
 * @returns {HTMLElement[]}
 */
export function fieldRows(options, names, prefix = "field") {
  return names
    .filter((name) => name in options.properties)
    .map((name) => {
      const schema = options.properties[name];
      const row = document.createElement("div");
      row.className = "field";
      const label = row.appendChild(document.createElement("label"));
      label.textContent = LABELS[name] ?? LABELS[name.slice(name.indexOf("_") + 1)];
      const input = row.appendChild(inputFor(schema));
      if (input instanceof HTMLInputElement && name.startsWith("size_")) {
        input.placeholder = "that of the file type";
      }
      const hint = row.appendChild(document.createElement("p"));
      hint.className = "hint";
      hint.textContent = [schema.description, bounds(schema)].filter(Boolean).join(" ");
      input.name = name;
      input.id = label.htmlFor = `${prefix}-${name}`;
      hint.id = `${input.id}-hint`;
      input.setAttribute("aria-describedby", hint.id);
      return row;
    });
}

/** @param {Schema} schema @returns {HTMLInputElement | HTMLSelectElement} */
function inputFor(schema) {
  const isFlag = schema.type === "boolean";
  if (schema.enum || isFlag) {
    const select = document.createElement("select");
    const choices = isFlag ? [true, false] : (schema.enum ?? []);
    const words = isFlag && schema.default == null ? "automatic" : choiceWords(schema.default);
    select.add(new Option(`default: ${words}`, ""));
    for (const each of choices) select.add(new Option(choiceWords(each), String(each ?? "none")));
    return select;
  }
  const input = document.createElement("input");
  input.autocomplete = "off";
  input.placeholder = shown(schema.default);
  if (schema.type === "array") return input;
  input.type = "number";
  input.step = schema.type === "integer" ? "1" : "any";
  if (schema.minimum !== undefined) input.min = String(schema.minimum);
  if (schema.maximum !== undefined) input.max = String(schema.maximum);
  return input;
}

/** @param {unknown} value */
function shown(value) {
  if (value === undefined || value === null) return "from the checkpoint";
  if (Array.isArray(value)) return value.join(", ");
  if (value === -1) return "random";
  return String(value);
}

/** @param {unknown} value */
function choiceWords(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  return String(value ?? "none");
}

/** @param {Schema} schema */
function bounds({ minimum, maximum }) {
  if (minimum === undefined || maximum === undefined) return "";
  return `${minimum.toLocaleString("en")} to ${maximum.toLocaleString("en")}.`;
}
