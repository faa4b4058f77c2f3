# The glibc build of Bun, which the tests and the measurements run on; the alpine image carries the musl build.
FROM oven/bun:1.4.5-slim AS bun
WORKDIR /app

FROM bun AS dependencies
COPY package.json bun.lock bunfig.toml ./
COPY patches patches
# The embedded queue, the only optional dependency, is refused in production and would add 10 MB. Of the 59 MB installed
# 29 MB are not needed at run time: the TypeScript compiler (an optional peer of elysia), source maps and type declarations.
RUN bun install --frozen-lockfile --production --omit=optional \
 && rm -rf node_modules/typescript node_modules/@typescript \
 && find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete

FROM bun
LABEL org.opencontainers.image.title=order-stats
# Loopback, the default host, cannot be reached from outside a container.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8000
COPY --from=dependencies /app/node_modules node_modules
# .dockerignore lists what is copied. Root owns all of it: the process cannot change its own code.
COPY . .
USER bun
EXPOSE 8000
# The route responds within about 2 s even when the store or the queue is unavailable: no response for 10 s, three times,
# is a stuck process. A start that does not find its queue and store within 30 s fails.
HEALTHCHECK --interval=5s --timeout=10s --start-period=30s --retries=3 \
  CMD ["bun", "-e", "process.exit((await fetch(`http://127.0.0.1:${process.env.PORT}/health`, { proxy: false })).ok ? 0 : 1)"]
# Exec form and no `bun run` in between: SIGTERM reaches the process that handles it.
CMD ["bun", "index.ts"]
