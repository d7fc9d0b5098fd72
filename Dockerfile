# One image with all four executables: docker build -t wxtoken . && docker run wxtoken /wxtoken --help
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -ldflags="-s -w" -o /out/ ./cmd/... \
    && mkdir /data

# No shell, no package manager, and a user that is not root (65532).
FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/ /
# A volume mounted here belongs to the user of the image: the all-in-one keeps its data in it.
COPY --from=build --chown=65532:65532 /data /data
ENV WXTOKEN_DATA_DIR=/data
EXPOSE 8080
CMD ["/wxtoken"]
