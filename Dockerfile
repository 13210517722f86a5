# The serving image: only the package `service` and its extra, without torch or a compiler, not run as root.
FROM python:3.11-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends g++
WORKDIR /src
COPY pyproject.toml constraints.txt README.md ./
COPY native ./native
COPY service ./service
# Required: an image without the native core would be slower, and nothing would tell.
ENV BUILD_NATIVE_CORE=required
RUN python -m venv /opt/bidlight \
 && /opt/bidlight/bin/pip install --no-cache-dir "$(grep '^pip==' constraints.txt)" \
 && /opt/bidlight/bin/pip install --no-cache-dir --constraint constraints.txt \
      --build-constraint constraints.txt '.[service,otel]'

FROM python:3.11-slim
COPY --from=build /opt/bidlight /opt/bidlight
RUN useradd --system --uid 10001 --no-create-home bidlight
USER bidlight
# One process uses one core: without this, OpenMP libraries would start a thread for each core.
ENV PATH=/opt/bidlight/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OMP_NUM_THREADS=1 \
    BIDLIGHT_HOST=0.0.0.0 \
    BIDLIGHT_PORT=8000
EXPOSE 8000
STOPSIGNAL SIGTERM
# A long interval: each check starts a Python interpreter on the core that bids. With TLS it needs an admin port.
HEALTHCHECK --interval=15s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as u; port = os.environ.get('BIDLIGHT_ADMIN_PORT') or os.environ['BIDLIGHT_PORT']; u.urlopen(f'http://127.0.0.1:{port}/readyz', timeout=2)"]
ENTRYPOINT ["python", "-m", "service"]
