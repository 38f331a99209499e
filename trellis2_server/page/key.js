/** The dialog for the API key. */

/**
 * Returns a function that opens the dialog, and returns the key or null.
 * @param {HTMLDialogElement} dialog
 * @returns {(message: string, isWrong: boolean) => Promise<string | null>}
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
  return (message, isWrong) =>
    new Promise((resolve) => {
      field.value = "";
      dialog.returnValue = "";
      reason.textContent = isWrong ? `This key is not valid: ${message}` : message;
      dialog.addEventListener("close", () => resolve(dialog.returnValue || null), { once: true });
      dialog.showModal();
    });
}
