declare module "*.lua" {
  const source: string;
  export default source;
}
declare module "*.sql" {
  const source: string;
  export default source;
}
declare module "swagger-ui-dist/absolute-path.js" {
  /** @returns the folder with the scripts and styles of Swagger UI */
  export default function absolutePath(): string;
}
