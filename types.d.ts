declare module "*.lua" {
  const source: string;
  export default source;
}
declare module "*.sql" {
  const source: string;
  export default source;
}
declare module "swagger-ui-dist" {
  /** The folder that holds the page's scripts and styles. */
  export function absolutePath(): string;
}
