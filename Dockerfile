# The server on SGLang's own image: nothing of it is changed, this package is added.
#
#   docker build -t sglang-qwen3next-eagle3 .
#   docker run --gpus all --shm-size 16g -p 30000:30000 -v models:/models -v caches:/caches \
#     -v $PWD/keys:/keys:ro \
#     sglang-qwen3next-eagle3 --profile b1 --host 0.0.0.0 --api-key-file /keys/api-key
#
# A tag can be moved; what is deployed is pinned by its digest:
#   --build-arg SGLANG_IMAGE=lmsysorg/sglang@sha256:...
ARG SGLANG_RELEASE=v0.5.17
ARG SGLANG_IMAGE=lmsysorg/sglang:${SGLANG_RELEASE}

FROM ${SGLANG_IMAGE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY launch launch
COPY patches patches
COPY benchmarks benchmarks
COPY sglang_qwen3next_eagle3 sglang_qwen3next_eagle3
RUN python3 -m pip wheel --no-cache-dir --no-deps --wheel-dir /dist .

FROM ${SGLANG_IMAGE}
COPY --from=wheel /dist /dist
# What the image carries is also the constraint: an installation that would change one of its packages
# fails. Its SGLang is checked instead of the `serve` extra.
RUN python3 -m pip list --format=freeze > /dist/constraints.txt \
    && PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --no-cache-dir -c /dist/constraints.txt /dist/*.whl \
    && rm -rf /dist \
    && (getent passwd 1000 > /dev/null || useradd --uid 1000 --create-home server) \
    && install -d -o 1000 -g 1000 /models /caches \
    && python3 -m sglang_qwen3next_eagle3 patches verify
# Checkpoints in /models; what is compiled on the first start in /caches, so that the next one is quick
# and the rest of the file system may be read-only.
ENV HF_HOME=/models \
    XDG_CACHE_HOME=/caches \
    TRITON_CACHE_DIR=/caches/triton \
    TORCHINDUCTOR_CACHE_DIR=/caches/inductor \
    FLASHINFER_WORKSPACE_BASE=/caches \
    SGLANG_DG_CACHE_DIR=/caches/deep_gemm \
    TVM_FFI_CACHE_DIR=/caches/tvm-ffi \
    CUTE_DSL_CACHE_DIR=/caches/cute \
    SGLANG_JIT_CACHE_DIR=/caches/jit \
    SGLANG_CACHE_DIR=/caches/sglang \
    CUDA_CACHE_PATH=/caches/cuda \
    PYTHONUNBUFFERED=1 \
    PORT=30000
VOLUME ["/models", "/caches"]
USER 1000:1000
WORKDIR /tmp
EXPOSE 30000
# SGLang's /health generates a token where nothing else runs, so it tells a dead scheduler too. Loading
# 160 GB from a network disk takes its time; until then a failure does not count. It asks plain HTTP at
# PORT: with --port N give -e PORT=N too, with TLS --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=30s --start-period=30m --retries=3 \
    CMD python3 -c "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'] + '/health', timeout=25)"
STOPSIGNAL SIGTERM
ENTRYPOINT ["python3", "-m", "sglang_qwen3next_eagle3.launch"]
CMD ["--list"]
