/** The dialogue that asks for the API key. */

/**
 * Asks; gives the key, or null.
 * @param {HTMLDialogElement} dialog
 * @returns {(sentence: string, isWrong: boolean) => Promise<string | null>}
 */
export function keyDialog(dialog) {
  const field = /** @type {HTMLInputElement} */ (dialog.querySelector("input"));
  const reason = /** @type {HTMLElement} */ (dialog.querySelector("#key-reason"));
  const cancel = /** @type {HTMLButtonElement} */ (dialog.querySelector("#key-cancel"));
  cancel.addEventListener("click", () => dialog.close(""));
  dialog.querySelector("form")?.addEventListener("submit", (event) => {
    event.preventDefault();
    dialog.close(field.value.trim());
  });
  return (sentence, isWrong) =>
    new Promise((resolve) => {
      field.value = "";
      dialog.returnValue = "";
      reason.textContent = isWrong ? `That key is not one of this server's: ${sentence}` : sentence;
      dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
      dialog.showModal();
    });
}
