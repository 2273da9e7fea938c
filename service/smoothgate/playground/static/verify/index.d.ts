export interface Check {
  name: string;
  passed: boolean;
  detail: string;
}
export interface Result {
  /** The content of the signature; null where it is refused. */
  certificate: Record<string, unknown> | null;
  /** The key that signed it. */
  kid: string | null;
  checks: Check[];
}
export interface KeySet {
  keys: Record<string, unknown>[];
}
export class Rejected extends Error {
  code: string;
}
export function read(given: string | object): { jws: string; shown: Record<string, unknown> | null }[];
export function answered(given: string | object): string[] | null;
export function check(
  jws: string,
  keys: KeySet,
  options?: { shown?: object | null; images?: Uint8Array[]; texts?: string[] | null; pin?: string[] | null },
): Promise<Result>;
export function checkAnswer(
  given: string | object,
  keys: KeySet,
  options?: { images?: Uint8Array[]; pin?: string[] | null },
): Promise<{ good: boolean; results: Result[] }>;
