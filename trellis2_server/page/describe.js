/** A text in place of a picture, where the server has pictures made of texts. */

/** Longest beginning of a text that is shown as a title, characters. */
const TITLE_CHARS = 80;
/** Longest name of a file that is made of a text, characters. */
const NAME_CHARS = 40;

export class Describe {
  /** Texts that were sent from this tab, by uid of their job. @type {Map<string, string>} */
  #sent = new Map();

  /**
   * @param {HTMLDetailsElement} section has the form; hidden until the server takes texts.
   * @param {HTMLElement} hint has a button that opens the section.
   * @param {(text: string) => void} onSend
   */
  constructor(section, hint, onSend) {
    this.section = section;
    this.hint = hint;
    const form = /** @type {HTMLFormElement} */ (section.querySelector("form"));
    this.field = /** @type {HTMLTextAreaElement} */ (section.querySelector("textarea"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      onSend(wordsOf(this.field.value));
    });
    this.field.addEventListener("input", () => this.#check());
    this.field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    hint.querySelector("button")?.addEventListener("click", () => {
      section.open = true;
      this.field.focus();
    });
    this.#check();
  }

  /** @param {number | null | undefined} max_length longest text; none: the server takes no text. */
  show(max_length) {
    this.section.hidden = this.hint.hidden = !max_length;
    if (max_length) this.field.maxLength = max_length;
  }

  /** White space alone is no text. */
  #check() {
    const isEmpty = !wordsOf(this.field.value);
    this.field.setCustomValidity(isEmpty ? "Say what the model is to be." : "");
  }

  /** Remembers what was sent. @param {string} id @param {string} text */
  remember(id, text) {
    this.#sent.set(id, text);
  }

  /**
   * The text that a job was made from, if this tab sent it.
   * @param {string} id
   * @param {import("./api.js").Job | null} job
   */
  textOf(id, job) {
    return this.#sent.get(id) ?? this.#sent.get(job?.uid ?? "");
  }
}

/** A text on one line. @param {string} text */
function wordsOf(text) {
  return text.trim().replaceAll(/\s+/g, " ");
}

/** The beginning of a text, as a title. @param {string} text */
export function titleOf(text) {
  const characters = [...text];
  if (characters.length <= TITLE_CHARS) return text;
  return `${characters.slice(0, TITLE_CHARS).join("")}…`;
}

/** A file name for a picture of a text. @param {string} text */
export function fileNameOf(text) {
  const plain = text.replaceAll(/[^\p{L}\p{M}\p{N} _-]+/gu, "");
  return `${[...plain].slice(0, NAME_CHARS).join("").trim() || "model"}.png`;
}
