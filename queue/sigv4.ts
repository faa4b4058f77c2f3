export interface Credentials {
  accessKeyId: string;
  secretAccessKey: string;
  sessionToken?: string;
}

export interface Scope {
  credentials: Credentials;
  region: string;
  service: string;
}

/**
 * The headers of a `POST /`, signed with AWS Signature Version 4. Names are lower-case and values trimmed, as the caller
 * writes them; `host` is among them. Only this shape of request, because the SDK's signer, which does every shape, costs
 * as much as the rest of the request. Source: AWS, "Create a signed AWS API request".
 */
export function sign(headers: Record<string, string>, body: string, scope: Scope, now: Date): Record<string, string> {
  const { credentials, region, service } = scope;
  const time = `${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, "")}Z`;
  const date = time.slice(0, 8);
  const signed: Record<string, string> = { ...headers, "x-amz-date": time };
  if (credentials.sessionToken) signed["x-amz-security-token"] = credentials.sessionToken;
  const names = Object.keys(signed).sort();
  const signedHeaders = names.join(";");
  const canonicalHeaders = names.map((name) => `${name}:${signed[name]}\n`).join("");
  const canonicalRequest = `POST\n/\n\n${canonicalHeaders}\n${signedHeaders}\n${sha256(body)}`;
  const place = `${date}/${region}/${service}/aws4_request`;
  const text = `AWS4-HMAC-SHA256\n${time}\n${place}\n${sha256(canonicalRequest)}`;
  const signature = hmac(signingKey(credentials.secretAccessKey, date, region, service), text).toString("hex");
  const credential = `Credential=${credentials.accessKeyId}/${place}`;
  signed.authorization = `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${signedHeaders}, Signature=${signature}`;
  return signed;
}

let lastKey: { of: string; key: Buffer } | undefined;

/** Four rounds of HMAC, the same for every request of a day. */
function signingKey(secret: string, date: string, region: string, service: string): Buffer {
  const of = [secret, date, region, service].join("\n");
  if (lastKey?.of !== of) {
    const key = [date, region, service, "aws4_request"].reduce(hmac, Buffer.from(`AWS4${secret}`));
    lastKey = { of, key };
  }
  return lastKey.key;
}

const hmac = (key: Buffer, text: string): Buffer => new Bun.CryptoHasher("sha256", key).update(text).digest();

const sha256 = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");
