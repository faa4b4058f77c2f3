declare module "*.lua" {
  const source: string;
  export default source;
}
declare module "*.sql" {
  const source: string;
  export default source;
}
declare module "swagger-ui-dist/absolute-path.js" {
  /** The folder that holds the page's scripts and styles. */
  export default function absolutePath(): string;
}
