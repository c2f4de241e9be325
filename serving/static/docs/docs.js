// Swagger UI over this server's own OpenAPI document, with the token that the page at /ui has asked for.
"use strict";

function addToken(request) {
  const token = sessionStorage.getItem("token");
  if (token && !request.headers.Authorization) request.headers.Authorization = `Bearer ${token}`;
  return request;
}

SwaggerUIBundle({
  url: "docs.json",
  dom_id: "#routes",
  deepLinking: true,
  validatorUrl: null, // or it would ask another host
  presets: [SwaggerUIBundle.presets.apis],
  requestInterceptor: addToken,
});
