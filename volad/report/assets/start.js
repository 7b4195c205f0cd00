// Opens the page: `document.body.dataset.state` ends as ready, fallback or failed.
"use strict";

volad.start = async () => {
  const page = JSON.parse(document.getElementById("page").textContent);
  const message = document.getElementById("message");
  const stage = document.getElementById("stage");
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot unpack the volumes (no DecompressionStream): use a newer one");
  }
  const volumes = await volad.loadVolumes();
  const canvas = document.getElementById("canvas");
  let state = "ready";
  let view;
  if (volad.hasWebGL2()) {
    view = await volad.niivueView(canvas, page, volumes);
  } else {
    canvas.remove();
    stage.className = "plain";
    view = volad.plainView(stage, page, volumes);
    state = "fallback";
  }
  volad.connect(view, page, volumes);
  volad.view = view;
  message.textContent =
    state === "ready" ? "" : "This browser has no WebGL2, so here are plain slices instead of the viewer.";
  // Ready means drawn: two frames later the first picture is on the screen.
  requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.state = state; }));
};

volad.start().catch((error) => {
  document.body.dataset.state = "failed";
  document.getElementById("message").textContent =
    `The viewer did not start: ${error.message}. The lesion table is complete without it.`;
});
