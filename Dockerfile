# The command line in a container, built from a clone of the repository:
#   docker build -t radapt .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" radapt demo
# On a GPU (the driver of the host must be as new as the CUDA version that is named):
#   docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 -t radapt-gpu .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" radapt-gpu evaluate micro/clip --device cuda
# What is read and written lies in the current folder; models and datasets from the hub are kept in /cache, a volume.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim

ARG TORCH=2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=captions,digits,hub,large,log

WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src src
# torch has its version in TORCH, and the project its bounds in pyproject.toml.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" "torch==${TORCH}" ".[${EXTRAS}]" \
    && rm -rf /build/src

# Whoever runs it, under whatever number, may write to the cache, and has a name.
RUN mkdir -m 1777 /cache
ENV HOME=/cache USER=radapt HF_HOME=/cache/huggingface RADAPT_CACHE=/cache/radapt
VOLUME /cache
USER 1000
WORKDIR /work
ENTRYPOINT ["radapt"]
CMD ["--help"]
