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
 * Signs a `POST /` with AWS Signature Version 4. Other requests are not supported: the general signer of the SDK uses as much
 * CPU as the rest of the request.
 *
 * @param headers must include `host`; names in lower case, values without surrounding spaces
 * @returns the headers with the signature
 * @see https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
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
  const credentialScope = `${date}/${region}/${service}/aws4_request`;
  const stringToSign = `AWS4-HMAC-SHA256\n${time}\n${credentialScope}\n${sha256(canonicalRequest)}`;
  const hasher = signingHasher(credentials.secretAccessKey, date, region, service);
  const signature = hasher.update(stringToSign).digest("hex");
  const credential = `Credential=${credentials.accessKeyId}/${credentialScope}`;
  signed.authorization = `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${signedHeaders}, Signature=${signature}`;
  return signed;
}

let cached: { inputs: string; hasher: Bun.CryptoHasher } | undefined;

/** Cached, because the signing key takes four rounds of HMAC and stays the same for a day. */
function signingHasher(secret: string, date: string, region: string, service: string): Bun.CryptoHasher {
  const inputs = [secret, date, region, service].join("\n");
  if (cached?.inputs !== inputs) {
    const rounds = [date, region, service, "aws4_request"];
    const key = rounds.reduce((key: string | Buffer, text) => hmac(key).update(text).digest(), `AWS4${secret}`);
    cached = { inputs, hasher: hmac(key) };
  }
  return cached.hasher.copy();
}

const hmac = (key: string | Buffer) => new Bun.CryptoHasher("sha256", key);

const sha256 = (text: string): string => Bun.SHA256.hash(text, "hex");
