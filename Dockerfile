# The trainer and the scorer, for CPUs or for NVIDIA GPUs:
#   docker build --tag=lookbook:0.1.0 .
#   docker build --tag=lookbook:0.1.0-gpu --build-arg=LOCK=requirements-gpu.lock .

# What the lock file pins, by hash. A change of the project's own code leaves this layer, and its gigabytes, alone.
FROM python:3.11-slim AS packages
ARG LOCK=requirements.lock
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY scripts/install.sh /usr/share/lookbook/
COPY ${LOCK} /usr/share/lookbook/requirements.lock
# The headers are for building TensorFlow operations in C++: 430 MB.
RUN --mount=type=cache,target=/root/.cache/pip \
  /usr/share/lookbook/install.sh python /usr/share/lookbook/requirements.lock \
  && rm -r /opt/venv/lib/python3.*/site-packages/tensorflow/include

# The project itself, laid out to be copied over the environment.
FROM packages AS project
WORKDIR /src
COPY pyproject.toml setup.py README.md LICENSE ./
COPY trainer trainer
COPY batch batch
COPY images images
COPY storage storage
COPY runtime runtime
COPY pages pages
RUN pip install --no-deps --no-build-isolation --no-cache-dir --prefix=/install .

# The list of parts; docker build --target=sbom --output=. writes it here. Cloud's Artifact Analysis reads 1.5.
FROM packages AS parts
COPY requirements-sbom.lock /tmp/requirements-sbom.lock
RUN --mount=type=cache,target=/root/.cache/pip \
  python -m venv /opt/cyclonedx \
  && /usr/share/lookbook/install.sh /opt/cyclonedx/bin/python /tmp/requirements-sbom.lock \
  && /opt/cyclonedx/bin/cyclonedx-py environment --spec-version=1.5 --output-file=/sbom.cdx.json /opt/venv

FROM scratch AS sbom
COPY --from=parts /sbom.cdx.json /

FROM packages AS runtime
# /tmp is the home: all that is written to where the root file system is read-only.
RUN useradd --uid=10001 --home-dir=/tmp --no-create-home --shell=/usr/sbin/nologin lookbook
COPY --from=sbom /sbom.cdx.json /usr/share/lookbook/
COPY --from=project /install /opt/venv
# GKE puts the driver's libraries into /usr/local/nvidia and leaves it to the image to look there.
ENV HOME=/tmp \
  LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
  PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
CMD ["lookbook-train", "--help"]
# Last, because each commit changes it.
ARG COMMIT=unknown
ENV LOOKBOOK_COMMIT=${COMMIT}
LABEL org.opencontainers.image.title=lookbook \
  org.opencontainers.image.description="Trains a clothing classifier with TensorFlow, scores collections with Apache Beam" \
  org.opencontainers.image.version=0.1.0 \
  org.opencontainers.image.revision=${COMMIT} \
  org.opencontainers.image.licenses=Apache-2.0

# The fast tests, with the packages that ship: docker build --target=test . fails where one of them does.
FROM runtime AS test
# hadolint ignore=DL3002
USER 0
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache/pip \
  /usr/share/lookbook/install.sh python requirements-dev.lock
COPY . .
RUN make --old-file=.venv/ready BIN=/opt/venv/bin test

FROM runtime
