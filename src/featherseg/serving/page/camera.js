// The camera of this computer or phone, and its frames as images.

const QUALITY = 0.92; // of the JPEG that a frame becomes
const REASONS = {
  NotAllowedError: "The camera was not allowed. Allow it for this page in the browser, then try again.",
  NotFoundError: "No camera was found.",
  NotReadableError: "The camera is in use by another program. Close that, then try again.",
};

// Lets the video element show the camera. Throws an Error with a message.
export async function startCamera(video) {
  if (!navigator.mediaDevices) {
    throw new Error("Browsers give the camera to https pages and to http://127.0.0.1 only. Open this page that way.");
  }
  const wish = { facingMode: "environment", width: { ideal: 1280 }, height: { ideal: 720 } };
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wish });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera could not be opened: ${error.message}`);
  }
  await video.play();
}

export function stopCamera(video) {
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

// -> Promise of what the camera sees now, as a JPEG blob.
export async function takeFrame(video) {
  const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  canvas.getContext("2d").drawImage(video, 0, 0);
  return canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
}
