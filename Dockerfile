# The glibc build of Bun, which the tests and the measurements run on; the alpine image carries the musl build.
FROM oven/bun:1.4.5-slim AS build
WORKDIR /app
COPY package.json bun.lock bunfig.toml ./
COPY patches patches
RUN bun install --frozen-lockfile --production
# .dockerignore lists what is copied.
COPY . .
# All that the executable needs beside itself is glibc: five libraries, which ldd lists.
RUN bun scripts/build.ts --outfile /image/usr/local/bin/orders \
 && cp --parents --dereference $(ldd /image/usr/local/bin/orders | grep -o '/[^ ]*') /image

# No shell, no package manager, and no user but the number below: 135 MB, of which Bun is 107.
FROM scratch
LABEL org.opencontainers.image.version=1.0.0 org.opencontainers.image.title=order-stats org.opencontainers.image.licenses=MIT
# Loopback, the default host, cannot be reached from outside a container. Without a HOME, one is looked up in /etc/passwd.
ENV NODE_ENV=production HOST=0.0.0.0 PORT=8000 HOME=/ PATH=/usr/local/bin
# Root owns all of it: the process cannot change its own code.
COPY --from=build /image /
USER 1000:1000
EXPOSE 8000
# The route responds within about 2 s even when the store or the queue is unavailable: no response for 8 s, three times,
# is a stuck process. A start that does not find its queue and store within 30 s fails.
HEALTHCHECK --interval=5s --timeout=10s --start-period=30s --retries=3 CMD ["orders", "health"]
# Exec form: SIGTERM reaches the process that handles it.
CMD ["orders"]
