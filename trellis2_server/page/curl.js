/** The curl command that generates the same model. */

import { address, hasKey } from "./api.js";

/**
 * A curl command for a POSIX shell.
 * @param {string} name file name of the picture.
 * @param {Record<string, unknown>} fields
 */
export function curlCommand(name, fields) {
  const stem = name.replace(/\.[^.]*$/, "") || "model";
  const parts = ["curl --fail-with-body"];
  if (hasKey()) parts.push('-H "X-API-Key: $TRELLIS2_API_KEY"');
  parts.push(`-F ${quoted(`image=@${name}`)}`);
  for (const [field, value] of Object.entries(fields)) {
    if (value === undefined || value === null) continue;
    parts.push(`-F ${quoted(`${field}=${Array.isArray(value) ? value.join(",") : value}`)}`);
  }
  parts.push(`-o ${quoted(`${stem}.glb`)}`, quoted(address("generate")));
  return parts.join(" \\\n  ");
}

/** @param {string} text */
function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
