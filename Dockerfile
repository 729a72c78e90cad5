# A static program on an image that holds nothing else.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-s -o /nudge ./server

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /nudge /nudge
EXPOSE 8080
ENTRYPOINT ["/nudge"]
CMD ["serve", "--config", "/etc/nudge/nudge.yaml"]
