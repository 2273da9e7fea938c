// Checks certificates of Smoothgate, in Node and in browsers: signature, digests, numbers of votes, bounds and
// radii. README.md says how it is used. Nothing is loaded from elsewhere.

import { contradictions as ofFeatures, disorder } from "./features.js";
import { differing, violation } from "./json.js";
import { ANSWER, FEATURES_1, FEATURES_2 } from "./schemas.js";
import { Rejected, sha256, signed } from "./signature.js";
import { contradictions as ofVotes } from "./votes.js";

export { Rejected };

/**
 * The signed certificates in a text, each with the fields shown beside it.
 *
 * @param given a JWS, or JSON (text or value): a certificate, or an answer of the service.
 * @returns {{jws: string, shown: object | null}[]}
 */
export function read(given) {
  let value = given;
  if (typeof given === "string") {
    if (!given.trim().startsWith("{")) return [{ jws: given.trim(), shown: null }];
    value = JSON.parse(given);
  }
  const certificates = value.answer_certificate ? [value.answer_certificate] : value.certificates ?? [value];
  return certificates.map((certificate) => {
    if (typeof certificate?.jws !== "string") throw new Error("This JSON holds no signed certificate (a field jws).");
    const { jws, ...shown } = certificate;
    return { jws, shown };
  });
}

/** The texts of the choices of an answer of the service, of any of its APIs; null: it is no answer. */
export function answered(given) {
  let value = given;
  if (typeof given === "string") {
    if (!given.trim().startsWith("{")) return null;
    value = JSON.parse(given);
  }
  if (typeof value.answer === "string") return [value.answer];
  const text = (parts, kind) => parts.filter((part) => part.type === kind).map((part) => part.text).join("");
  if (value.object === "response") return [text(value.output.flatMap((item) => item.content ?? []), "output_text")];
  if (value.type === "message") return [text(value.content, "text")];
  if (!Array.isArray(value.choices)) return null;
  const choices = [...value.choices].sort((one, other) => (one.index ?? 0) - (other.index ?? 0));
  return choices.map((choice) => choice.message.content ?? "");
}

/**
 * Check one certificate.
 *
 * @param jws the signed certificate.
 * @param keys the JWKS of the service.
 * @param options shown: the fields beside it; images: the uploaded files (Uint8Array), the one of a
 *     certificate of features, or all of the request; texts: of the answer's choices; pin: ids of the keys
 *     that are trusted, where not all of the set are.
 * @returns {{certificate: object | null, kid: string | null, checks: {name, passed, detail}[]}}
 */
export async function check(jws, keys, { shown = null, images = [], texts = null, pin = null } = {}) {
  const checks = [];
  const add = (name, passed, detail) => checks.push({ name, passed, detail });
  let certificate, kid;
  try {
    let header;
    ({ header, payload: certificate, kid } = await signed(jws, keys));
    if (pin && !pin.includes(kid)) throw new Rejected("unknown_key", `The key ${kid} is not pinned.`);
    const wrong = violation(certificate, schemaOf(header, certificate)) ?? (certificate.kind === "answer" ? null : disorder(certificate));
    if (wrong) throw new Rejected("wrong_schema", `The signature is good, but this is no certificate of a version known here (${wrong}).`);
  } catch (error) {
    if (!(error instanceof Rejected)) throw error;
    add("signature", false, `${error.code}: ${error.message}`);
    return { certificate: null, kid: null, checks };
  }
  add("signature", true, "made by a key of the set");
  if (shown) {
    const wrong = differing(certificate, shown);
    add("shown fields", !wrong.length, wrong.length ? `differ from what was signed: ${wrong.join(", ")}` : "as signed");
  }
  const utf8 = (text) => new TextEncoder().encode(text);
  try {
    const digests = await Promise.all(images.map((image) => sha256(image)));
    if (certificate.kind === "answer") {
      if (texts) {
        const same = texts.length === 1 && (await sha256(utf8(texts[0]))) === certificate.answer.text_sha256;
        add("answer", same, same ? "the one certified" : "another one than was certified");
      }
      const found = await ofVotes(certificate);
      if (!assumed(certificate, ANSWER)) found.push("assumptions are not those under which certificates of this version are made");
      add("votes", !found.length, found.join("; ") || "bounds, radius and outcome follow from them");
      if (images.length) {
        const same = digests.join() === certificate.images.map((one) => one.image.sha256).join();
        add("images", same, same ? "those certified" : `others: ${digests.join(", ")}`);
      }
      return { certificate, kid, checks };
    }
    if (texts && certificate.answer) {
      const same = (await sha256(utf8(JSON.stringify(texts)))) === certificate.answer.sha256;
      add("answer", same, same ? "the one signed, not certified" : "another one than was signed");
    }
    const found = ofFeatures(certificate);
    if (!assumed(certificate, certificate.version === 1 ? FEATURES_1 : FEATURES_2)) {
      found.push("assumptions: not those under which certificates of this version are made");
    }
    add("consistency", !found.length, found.join("; ") || "no field contradicts another");
    if (images.length) {
      const same = digests.length === 1 && digests[0] === certificate.image.sha256;
      add("image", same, same ? "the one certified" : `another one: ${digests.join(", ")}`);
    }
  } catch (error) {
    add("recomputation", false, `cannot be done with these numbers: ${error.message}`);
  }
  return { certificate, kid, checks };
}

/**
 * Check an answer of the service, or a certificate, with all that it shows.
 *
 * @param given as of `read`.
 * @param keys the JWKS of the service.
 * @param options images: the uploaded files in the order sent; pin: as of `check`.
 * @returns {{good: boolean, results: object[]}} results: as of `check`, one for each certificate.
 */
export async function checkAnswer(given, keys, { images = [], pin = null } = {}) {
  const texts = answered(given);
  const results = [];
  for (const [at, { jws, shown }] of read(given).entries()) {
    const own = shown?.kind === "answer" ? images : images.slice(at, at + 1);
    results.push(await check(jws, keys, { shown, images: own, texts, pin }));
  }
  return { good: results.every(({ checks }) => checks.every((each) => each.passed)), results };
}

function schemaOf(header, payload) {
  if (header.alg === "EdDSA") return FEATURES_1;
  return payload?.kind === "answer" ? ANSWER : FEATURES_2;
}

/** Whether it has the assumptions of its version, which certificates may leave to their schema. */
function assumed(certificate, schema) {
  const own = schema.properties.assumptions.default;
  return JSON.stringify(certificate.assumptions ?? own) === JSON.stringify(own);
}
