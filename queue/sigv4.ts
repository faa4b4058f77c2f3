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

export type Sign = ReturnType<typeof createSigner>;

/**
 * Creates a function that signs `POST /` requests with AWS Signature Version 4. All of them are signed with the time `now`, so that
 * the key is computed once. AWS accepts a signature for five minutes: create a new signer well before. Other requests are not
 * supported: the general signer of the SDK uses as much CPU as the rest of the request.
 *
 * @see https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
 */
export function createSigner({ credentials, region, service }: Scope, now: Date) {
  const time = `${now.toISOString().slice(0, 19).replaceAll(/[-:]/g, "")}Z`;
  const date = time.slice(0, 8);
  const scope = `${date}/${region}/${service}/aws4_request`;
  const credential = `Credential=${credentials.accessKeyId}/${scope}`;
  const rounds = [date, region, service, "aws4_request"];
  const secret = `AWS4${credentials.secretAccessKey}`;
  const hasher = hmac(rounds.reduce((key: string | Buffer, text) => hmac(key).update(text).digest(), secret));

  /**
   * @param headers must include `host`; names in lower case, values without surrounding spaces
   * @returns the headers with the signature
   */
  return (headers: Record<string, string>, body: string): Record<string, string> => {
    const signed: Record<string, string> = { ...headers, "x-amz-date": time };
    if (credentials.sessionToken) signed["x-amz-security-token"] = credentials.sessionToken;
    const names = Object.keys(signed).sort();
    const signedHeaders = names.join(";");
    let canonicalHeaders = "";
    for (const name of names) canonicalHeaders += `${name}:${signed[name]}\n`;
    const canonicalRequest = `POST\n/\n\n${canonicalHeaders}\n${signedHeaders}\n${sha256(body)}`;
    const stringToSign = `AWS4-HMAC-SHA256\n${time}\n${scope}\n${sha256(canonicalRequest)}`;
    const signature = hasher.copy().update(stringToSign).digest("hex");
    signed.authorization = `AWS4-HMAC-SHA256 ${credential}, SignedHeaders=${signedHeaders}, Signature=${signature}`;
    return signed;
  };
}

const hmac = (key: string | Buffer) => new Bun.CryptoHasher("sha256", key);

const sha256 = (text: string): string => Bun.SHA256.hash(text, "hex");
