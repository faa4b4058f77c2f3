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
  let canonicalHeaders = "";
  for (const name of names) canonicalHeaders += `${name}:${signed[name]}\n`;
  const canonicalRequest = `POST\n/\n\n${canonicalHeaders}\n${signedHeaders}\n${sha256(body)}`;
  const place = `${date}/${region}/${service}/aws4_request`;
  const text = `AWS4-HMAC-SHA256\n${time}\n${place}\n${sha256(canonicalRequest)}`;
  const signature = signingHasher(credentials.secretAccessKey, date, region, service).update(text).digest("hex");
  const credential = `Credential=${credentials.accessKeyId}/${place}`;
  signed.authorization = `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${signedHeaders}, Signature=${signature}`;
  return signed;
}

let last: { of: string; hasher: Bun.CryptoHasher } | undefined;

/** Its key is four rounds of HMAC, the same for every request of a day. */
function signingHasher(secret: string, date: string, region: string, service: string): Bun.CryptoHasher {
  const of = [secret, date, region, service].join("\n");
  if (last?.of !== of) {
    const rounds = [date, region, service, "aws4_request"];
    const key = rounds.reduce((key: string | Buffer, text) => hmac(key).update(text).digest(), `AWS4${secret}`);
    last = { of, hasher: hmac(key) };
  }
  return last.hasher.copy();
}

const hmac = (key: string | Buffer) => new Bun.CryptoHasher("sha256", key);

const sha256 = (text: string): string => Bun.SHA256.hash(text, "hex");
