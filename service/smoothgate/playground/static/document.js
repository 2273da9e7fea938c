// A signed certificate as JSON, to verify, copy and download.

import { get } from "./api.js";
import { make } from "./dom.js";
import { checkAnswer } from "./verify/index.js";

/**
 * Show a certificate.
 *
 * @param name begins the ids of its elements.
 */
export function signedDocument(certificate, name) {
  const text = make("textarea", { id: `${name}-json`, value: JSON.stringify(certificate, null, 2), rows: 14, spellcheck: false, "aria-label": "Certificate as JSON" });
  const result = make("p", { id: `${name}-verified`, className: "verified", role: "status" });
  const button = (id, words, act) => {
    const made = make("button", { type: "button", id: `${name}-${id}` }, words);
    made.addEventListener("click", act);
    return made;
  };
  const check = async () => {
    result.className = "verified";
    result.textContent = "Checking …";
    try {
      const { results: [{ checks, kid }] } = await checkAnswer(JSON.parse(text.value), await get("/.well-known/jwks.json"));
      const failed = checks.find((each) => !each.passed);
      if (failed) throw new Error(`${failed.name}: ${failed.detail}`);
      result.classList.add("good");
      result.textContent = `✓ Signed by this service, unchanged, and free of contradictions (key ${kid}).`;
    } catch (error) {
      result.classList.add("bad");
      result.textContent = `✗ Refused. ${error instanceof SyntaxError ? "This is no JSON." : error.message}`;
    }
  };
  const copy = async () => {
    await navigator.clipboard.writeText(text.value).then(
      () => { result.textContent = "Copied."; },
      () => { text.select(); result.textContent = "Press Ctrl+C: this page may not copy by itself."; },
    );
  };
  const download = () => {
    const link = make("a", { href: URL.createObjectURL(new Blob([text.value], { type: "application/json" })), download: "certificate.json" });
    link.click();
    URL.revokeObjectURL(link.href);
  };
  return make("div", { className: "document" },
    make("div", { className: "row" }, button("verify", "Verify signature", check), button("copy", "Copy", copy), button("download", "Download", download)),
    result,
    make("p", { className: "hint" }, "Change a figure and verify again: it is refused."), text);
}
