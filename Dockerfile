# docker build -t sglang-qwen3next-eagle3 .
# docker run --gpus all --ipc=host -p 30000:30000 -v ~/.cache/huggingface:/root/.cache/huggingface \
#   sglang-qwen3next-eagle3 --profile b1 --host 0.0.0.0 --api-key KEY
ARG SGLANG_IMAGE=lmsysorg/sglang:v0.5.17

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
# The image carries SGLang itself: the `serve` extra is not installed, its release is checked instead.
RUN python3 -m pip install --no-cache-dir /dist/*.whl && rm -rf /dist \
    && python3 -m sglang_qwen3next_eagle3 patches verify
EXPOSE 30000
ENTRYPOINT ["python3", "-m", "sglang_qwen3next_eagle3.launch"]
CMD ["--list"]
