# edgevit with both vendors' converters: docker build -t edgevit .
#
#     docker run --rm edgevit make demo
#     docker run --rm -v "$PWD:/work" -w /work edgevit edgevit convert --target rk3588 --out runs/demo
#
# Two stages: what compiles and downloads stays in the first.
FROM debian:bookworm-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates make python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home user
USER user
WORKDIR /home/user/edgevit
# torch's CPU builds have an index of their own: --build-arg PIP_EXTRA_INDEX_URL=... keeps 5 GB of CUDA out.
ARG PIP_EXTRA_INDEX_URL
COPY --chown=user:user . .
ENV EDGEVIT_TOOLCHAINS=/home/user/toolchains PIP_NO_CACHE_DIR=1
RUN make toolchains

FROM debian:bookworm-slim
# For boards: ssh and adb. For the tests: an sshd and a C compiler.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
       adb ca-certificates gcc git libc6-dev make openssh-client openssh-server python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home user
COPY --from=build --chown=user:user /home/user /home/user
USER user
ENV EDGEVIT_TOOLCHAINS=/home/user/toolchains PATH=/home/user/edgevit/.venv/bin:$PATH
WORKDIR /home/user/edgevit
CMD ["make", "demo"]
