# A static binary, the certificates to verify upstreams and key servers by, and
# nothing else: no shell, no package manager, no user but nonroot.
#
#   docker build --build-arg VERSION=v0.1.0 -t headgate:v0.1.0 .
#
# Without a container engine, `hack/cluster/cluster image` makes an image of the
# same files for the cluster that it starts.
ARG GO_VERSION=1.26

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
ENV CGO_ENABLED=0 GOTOOLCHAIN=local
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY config config
COPY controllers controllers
COPY dataplane dataplane
ARG TARGETOS TARGETARCH VERSION=dev
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/headgate ./cmd/headgate
RUN mkdir -p /out/etc/ssl/certs && \
    cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/ && \
    printf 'root:x:0:0::/:/\nnonroot:x:65532:65532::/:/\n' >/out/etc/passwd && \
    printf 'root:x:0:\nnonroot:x:65532:\n' >/out/etc/group

FROM scratch
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/headgate"]
