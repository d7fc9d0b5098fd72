# One image with all five executables and nothing else: no shell, no package manager, a user that is not root.
#
#   docker build -t wxtoken . && docker run --rm wxtoken /refresher --help
#
# Needs nothing of BuildKit. Where Docker's or Go's own hosts can't be reached, name others: --build-arg GO_IMAGE=..., GOPROXY=...
ARG GO_IMAGE=golang:1.26
FROM ${GO_IMAGE} AS build
WORKDIR /src
ARG GOPROXY
COPY go.mod go.sum ./
COPY client/go.mod client/
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=(devel)
ARG REVISION=unknown
RUN settings="$(go list -m)/internal/settings" \
    && CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath \
        -ldflags="-s -w -X '$settings.linkedVersion=$VERSION' -X '$settings.linkedCommit=$REVISION'" -o /out/ ./cmd/... \
    && mkdir /data

FROM scratch
ARG VERSION=(devel)
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wxtoken" \
      org.opencontainers.image.description="Keeps WeChat third-party-platform tokens fresh with NATS JetStream" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"
# To check WeChat's certificate.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/ /
# A volume mounted here belongs to the user of the image: the all-in-one keeps its data in it.
COPY --from=build --chown=65532:65532 /data /data
ENV WXTOKEN_DATA_DIR=/data
USER 65532:65532
EXPOSE 8080
CMD ["/wxtoken"]
