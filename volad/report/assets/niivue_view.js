// The view of browsers with WebGL2: niivue. `plain_view.js` answers to the same calls.
"use strict";

// Overlays of niivue are clear where their colour map is: these two are not, black included.
volad.COLORS = {
  grey: { R: [0, 255], G: [0, 255], B: [0, 255], A: [255, 255], I: [0, 255] },
  score: {
    R: [0, 180, 255, 255], G: [0, 20, 140, 240], B: [0, 30, 20, 120],
    A: [0, 255, 255, 255], I: [0, 1, 128, 255],
  },
};
// Label 1 is the inside of a lesion, 2 its border.
volad.maskColors = (outline) => ({
  R: [0, 33, 33], G: [0, 208, 208], B: [0, 230, 230], A: [0, outline ? 0 : 255, 255],
  labels: ["", "lesion", "lesion"],
});

volad.hasWebGL2 = () => {
  const context = document.createElement("canvas").getContext("webgl2");
  context?.getExtension("WEBGL_lose_context")?.loseContext(); // browsers allow only a few
  return context !== null;
};

volad.loadNiivue = async () => {
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await volad.unpack("niivue-code"));
  document.head.append(script);
  return window.niivue;
};

volad.niivueView = async (canvas, page, volumes) => {
  const { Niivue, NVImage, SHOW_RENDER, DRAG_MODE } = await volad.loadNiivue();
  const nv = new Niivue({
    logLevel: "silent",
    backColor: [0, 0, 0, 1],
    fontColor: [0.75, 0.8, 0.85, 1],
    crosshairColor: [0.5, 0.7, 0.9, 0.8],
    crosshairWidth: 0.6,
    crosshairWidthUnit: "mm",
    crosshairGap: 14, // in half widths, here 4 mm: the voxel in question stays visible
    tileMargin: 4,
    isRadiologicalConvention: true,
    showAllOrientationMarkers: true,
    multiplanarShowRender: SHOW_RENDER.NEVER,
    multiplanarEqualSize: false,
    dragMode: DRAG_MODE.windowing,
    dragAndDropEnabled: false,
    clipPlaneHotKey: "", cycleClipPlaneHotKey: "", viewModeHotKey: "",
    show3Dcrosshair: true,
  });
  await nv.attachToCanvas(canvas);
  nv.addColormap("volad-grey", volad.COLORS.grey);
  nv.addColormap("volad-score", volad.COLORS.score);

  const names = Object.keys(volumes);
  const shown = {
    image: ["gray", ...page.window],
    healthy: ["volad-grey", ...page.window],
    score: ["volad-score", page.score.shown_from, page.score.shown_to],
    mask: ["gray", 0, 2],
  };
  for (const name of names) {
    const [colors, low, high] = shown[name];
    const { buffer } = volumes[name];
    const volume = await NVImage.new(buffer, `${name}.nii`, colors, 1, null, low, high);
    if (name === "mask") volume.setColormapLabel(volad.maskColors(volad.outlined()));
    volume.opacity = volad.opacity(name);
    nv.volumes.push(volume); // addVolume would redraw all layers for each of them
  }
  nv.setVolume(nv.volumes[0], 0);
  const volumeOf = (name) => nv.volumes[names.indexOf(name)];

  const view = {
    nv,
    onmove: () => {},
    onwindow: () => {},
    setLayer: (name, opacity) => nv.setOpacity(names.indexOf(name), opacity),
    setWindow: (low, high) => {
      for (const volume of nv.volumes.slice(0, names.indexOf("score"))) {
        [volume.cal_min, volume.cal_max] = [low, high];
      }
      nv.updateGLVolume();
      view.onwindow(low, high);
    },
    setScoreFrom: (value) => {
      volumeOf("score").cal_min = value;
      nv.updateGLVolume();
    },
    setOutline: (on) => {
      volumeOf("mask").setColormapLabel(volad.maskColors(on));
      nv.updateGLVolume();
    },
    setNeurological: (on) => nv.setRadiologicalConvention(!on),
    setRender: (on) => {
      nv.opts.multiplanarShowRender = on ? SHOW_RENDER.ALWAYS : SHOW_RENDER.NEVER;
      // Opaque black hides a slice's input as it should, but would be a box in 3D.
      if (volumes.healthy) volumeOf("healthy").colormap = on ? "gray" : "volad-grey";
      nv.updateGLVolume();
    },
    // `true`: by the scan's affine. niivue's default squares an oblique scan to the axes.
    position: () => [...nv.frac2mm(nv.scene.crosshairPos, 0, true)].slice(0, 3),
    jump: (mm) => {
      nv.scene.crosshairPos = nv.mm2frac(mm, 0, true);
      nv.createOnLocationChange();
      nv.drawScene();
    },
    step: (axis, count) => {
      const move = [0, 0, 0];
      move[axis] = count;
      nv.moveCrosshairInVox(...move);
    },
  };
  nv.onLocationChange = () => view.onmove(view.position());
  canvas.addEventListener("pointerup", () => {
    const { cal_min: low, cal_max: high } = nv.volumes[0];
    if (low !== page.window[0] || high !== page.window[1]) view.setWindow(low, high);
  });
  // niivue would go to a window of its own.
  canvas.parentElement.addEventListener(
    "dblclick", (event) => { event.stopPropagation(); view.setWindow(...page.window); }, true,
  );
  return view;
};
